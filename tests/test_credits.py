"""What is with an engine, and what waits before it."""

from dataclasses import replace

from moesaic.engine.options import ModelDescription
from moesaic.engine.receipt import Receipt
from moesaic.engine.request import FinishReason, Priority, Request, Row
from moesaic.models.dial import Dial
from moesaic.models.errors import Unavailable
from moesaic.proto import engine_pb2 as pb
from moesaic.server.credits import SPARE, Credits
from moesaic.server.running import Running
from moesaic.server.turnstile import Turnstile

ABOUT = ModelDescription("echo", 1, 1, 9, 9, (), Dial(), "cpu", "float32", 1, 1)
SLOTS = 2
MOST = SLOTS + SPARE


class Engine:
    """Records what it is sent."""

    def __init__(self) -> None:
        self.sent: list[pb.Command] = []
        self.has_room = True
        self.credits = Credits(SLOTS, self.sent.append, lambda: self.has_room)

    @property
    def submitted(self) -> list[int]:
        return [command.submit.key for command in self.sent if command.HasField("submit")]

    def ask(self, *keys: int, **settings: object) -> list[Running]:
        request = replace(Request(0, (5,)), **settings)  # type: ignore[arg-type]
        asked = [Running(key, 1, Receipt(request, ABOUT), Turnstile()) for key in keys]
        for running in asked:
            self.credits.add(request, running)
        return asked


def test_the_engine_gets_as_many_as_it_has_slots_and_a_few_more() -> None:
    engine = Engine()
    engine.ask(*range(1, 20))
    assert engine.submitted == [*range(1, MOST + 1)] and engine.credits.num_held == 19 - MOST
    engine.credits.row(Row(2, finish=FinishReason.LENGTH))
    assert engine.submitted == [*range(1, MOST + 2)]


def test_a_request_that_ended_before_its_turn_is_never_submitted() -> None:
    engine = Engine()
    asked = engine.ask(*range(1, 20))
    for running in asked[MOST:-1]:
        engine.credits.drop(running)
    for running in asked[:MOST]:
        engine.credits.row(Row(running.key, finish=FinishReason.LENGTH))
    assert engine.submitted == [*range(1, MOST + 1), 19]
    assert not any(command.HasField("abort") for command in engine.sent)


def test_an_engine_that_does_not_read_is_sent_no_more_however_many_come_and_go() -> None:
    engine = Engine()
    for key in range(1, 1000):
        (running,) = engine.ask(key)
        engine.credits.drop(running)
    assert len(engine.sent) == 2 * MOST  # their submits and aborts
    engine.credits.obeyed(2 * MOST)
    assert engine.ask(2000) and engine.submitted[-1] == 2000 and engine.credits.num_handed == 1


def test_dropping_a_request_twice_aborts_it_once() -> None:
    engine = Engine()
    (running,) = engine.ask(1)
    engine.credits.drop(running)
    engine.credits.drop(running)
    assert [command.HasField("abort") for command in engine.sent] == [False, True]


def test_nothing_is_handed_over_while_the_socket_is_full() -> None:
    engine = Engine()
    engine.has_room = False
    engine.ask(1)
    assert engine.sent == []
    engine.has_room = True
    engine.credits.hand_over()
    assert engine.submitted == [1]


def test_who_waits_is_served_by_priority_and_in_turn_by_caller() -> None:
    engine = Engine()
    running = engine.ask(*range(1, MOST + 1))
    engine.ask(50, 51, caller="many")
    engine.ask(60, caller="few")
    engine.ask(70, priority=Priority.HIGH)
    for each in running:
        engine.credits.row(Row(each.key, finish=FinishReason.LENGTH))
    assert engine.submitted[MOST:][0] == 70 and set(engine.submitted[MOST + 1 : MOST + 3]) == {50, 60}


def test_what_waits_too_long_is_told_and_not_submitted() -> None:
    engine = Engine()
    engine.ask(*range(1, MOST + 1))
    (late,) = engine.ask(90, deadline_seconds=10.0)
    engine.credits.expire(9.0)
    assert not late.ended
    engine.credits.expire(10.0)
    assert late.ended and engine.credits.num_held == 0


def test_a_failed_engine_fails_those_it_has_and_those_that_wait() -> None:
    engine = Engine()
    asked = engine.ask(*range(1, 20))
    assert engine.credits.owed
    engine.credits.fail(Unavailable("gone", "ENGINE_RESTARTING"))
    assert all(running.ended for running in asked) and not engine.credits.owed
