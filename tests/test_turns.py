"""Whose turn it is at a full queue, and what those are told whose turn it is not."""

import heapq
import threading
from collections import Counter

import grpc
import pytest
from patience import FakeClock
from server_harness import Server

from moesaic.engine.options import EngineOptions
from moesaic.models.errors import Overloaded
from moesaic.proto import generation_pb2 as pb
from moesaic.server.admission import Admission, Place
from moesaic.server.dialling import NO_PROXY
from moesaic.server.handlers import GENERATION, stub
from moesaic.server.status import error_of
from moesaic.server.turns import LATE_SECONDS, Turns


class InEngine:
    """A request that the engine has."""

    when_ended = staticmethod(lambda: None)


class Model:
    """An engine of `slots` that take `seconds` each, behind an admission, in a time of its own."""

    def __init__(self, places: int, slots: int, seconds: float) -> None:
        self.clock, self.slots, self.seconds = FakeClock(), slots, seconds
        self.admission = Admission(places, self.clock.monotonic)
        self.free_at = [0.0] * slots
        self.served = Counter[str]()

    def run(self, callers: list[str], until: float) -> None:
        """Each caller asks again as soon as it was served, or when it was told to."""
        events = [(0.001 * i, caller) for i, caller in enumerate(callers)]
        leaving: dict[str, tuple[float, object]] = {}
        while events and events[0][0] < until:
            self.clock.now, caller = heapq.heappop(events)
            if caller in leaving:
                leaving.pop(caller)[1].__exit__(None, None, None)  # type: ignore[attr-defined]
                self.served[caller] += 1
            heapq.heappush(events, (self._ask(caller, leaving), caller))

    def _ask(self, caller: str, leaving: dict[str, tuple[float, object]]) -> float:
        """When the caller is there again."""
        entry = self.admission.place(caller)
        try:
            place = entry.__enter__()
        except Overloaded as error:
            return float(self.clock.now + error.retry_after_seconds)
        self.admission.hold_prompt(place, 1, 1 << 30)
        self.admission.follow(place, InEngine())  # type: ignore[arg-type]
        done: float = max(self.clock.now, heapq.heappop(self.free_at)) + self.seconds
        heapq.heappush(self.free_at, done)
        leaving[caller] = (done, entry)
        return done


def test_each_of_640_callers_is_served_within_a_factor_of_three_of_every_other() -> None:
    model = Model(places=64, slots=8, seconds=0.08)  # 100 a second
    model.run([f"caller {i}" for i in range(640)], until=40.0)
    counts = [model.served[f"caller {i}"] for i in range(640)]
    assert max(counts) <= 3 * min(counts)
    assert sum(counts) > 0.95 * 100 * 40


def test_a_caller_of_many_requests_takes_no_more_turns_than_one_of_few() -> None:
    model = Model(places=16, slots=8, seconds=0.08)
    model.run(["greedy"] + ["modest"], until=1.0)
    assert model.served["modest"] >= 0.9 * model.served["greedy"]


def test_who_was_refused_first_has_the_next_place() -> None:
    clock = FakeClock()
    turns = Turns(4, clock.monotonic)
    for caller in "abc":
        turns.wait(caller, free=0)
    assert [caller for caller in "cbad" if turns.has(caller, free=2)] == ["b", "a"]
    turns.leave("a")
    assert [caller for caller in "cbd" if turns.has(caller, free=2)] == ["c", "b"]


def test_many_connections_of_one_address_have_one_turn_in_a_round() -> None:
    turns = Turns(4, FakeClock().monotonic)
    crowd = [f"ipv4:10.0.0.1:{port}" for port in range(100)]
    for caller in (*crowd, "ipv4:10.0.0.2:1", "alice", "http:10.0.0.3:7", "ipv6:[::1]:5"):
        turns.wait(caller, free=0)
    assert line_of(turns, 6) == [crowd[0], "ipv4:10.0.0.2:1", "alice", "http:10.0.0.3:7", "ipv6:[::1]:5", crowd[1]]
    assert turns.has("bob", free=6) and not turns.has("bob", free=5)  # who comes now is behind one of each
    assert not turns.has("ipv4:10.0.0.1:1000", free=100)


def test_whoever_comes_last_passes_nobody_who_has_waited_for_rounds() -> None:
    turns = Turns(4, FakeClock().monotonic)
    for port in range(5):
        turns.wait(f"ipv4:10.0.0.1:{port}", free=0)
    for i in range(50):  # others come as fast as places become free
        turns.wait(f"ipv4:10.0.1.{i}:1", free=0)
        turns.leave(line_of(turns, 1)[0])
    assert not [caller for caller in line_of(turns, 5) if caller.startswith("ipv4:10.0.0.1")]


def line_of(turns: Turns, count: int) -> list[str]:
    """The first of the line."""
    return [caller for _, caller in turns._line[:count]]


def test_the_wait_is_predicted_from_how_long_places_are_held() -> None:
    turns = Turns(4, FakeClock().monotonic)
    turns.freed(held_seconds=8.0)  # with 4 places, one becomes free every 2 s
    told = [turns.wait(f"{i}", free=0) for i in range(5)]
    parts = [seconds / (2 * i + 2) for i, seconds in enumerate(told)]
    assert all(0.8 <= part <= 1 for part in parts) and len(set(parts)) == 5  # not all at once


def test_a_caller_who_does_not_come_back_loses_its_turn() -> None:
    clock = FakeClock()
    turns = Turns(4, clock.monotonic)
    clock.sleep(turns.wait("gone", free=0))
    assert not turns.has("new", free=1)
    clock.sleep(LATE_SECONDS + 0.01)
    assert turns.has("new", free=1)


def test_while_half_of_the_places_are_free_nobody_waits_for_a_turn() -> None:
    admission = Admission(4)
    for i in range(100):
        admission._turns.wait(f"{i}", free=0)
    with admission.place("new"), admission.place("new"), pytest.raises(Overloaded), admission.place("new"):
        pass


def test_a_place_is_free_when_the_engine_is_done_though_its_caller_has_not_read() -> None:
    admission = Admission(1)
    with admission.place("slow") as place:
        with pytest.raises(Overloaded, match="1 requests are in flight of at most 1"), admission.place("next"):
            pass
        running = InEngine()
        admission.follow(place, running)  # type: ignore[arg-type]
        running.when_ended()
        with admission.place("next") as next_place:
            assert isinstance(next_place, Place) and admission.num_requests == 1
    assert admission.num_requests == 0


def test_on_a_real_server_each_caller_has_its_turn() -> None:
    engine = EngineOptions(num_slots=2)
    with Server(max_requests=8, engine=engine) as server:
        served = Counter[int]()
        _ask_until(server.address, 0, served, 1)  # how long one takes is known from now on
        callers = [threading.Thread(target=_ask_until, args=(server.address, i, served, 24 * 8)) for i in range(24)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        counts = [served[i] for i in range(24)]
        assert max(counts) <= 3 * min(counts)


def _ask_until(address: str, name: int, served: "Counter[int]", total: int) -> None:
    """A caller on a connection of its own, which comes again when it was told to, until so many were served."""
    options = (("grpc.use_local_subchannel_pool", 1), *NO_PROXY)
    request = pb.GenerateRequest(text="x", stopping=pb.Stopping(max_new_tokens=20))
    with grpc.insecure_channel(address, options=options) as channel:
        ask = stub(channel, GENERATION, "Generate")
        while served.total() < total:
            try:
                ask(request)
                served[name] += 1
            except grpc.RpcError as error:
                told = error_of(error)
                assert isinstance(told, Overloaded)
                threading.Event().wait(told.retry_after_seconds)
