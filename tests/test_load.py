"""The load generator of bench/server/: its arithmetic, its parts with small numbers, and servers that die on it."""

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from house import ROOT
from patience import FakeClock

from moesaic.bench.published import figures
from moesaic.bench.published.text import render
from moesaic.bench.server import run, timed_engine
from moesaic.bench.server.beside import Probe, beside
from moesaic.bench.server.cancels import Storm, ledger, storm_over
from moesaic.bench.server.connection import EXHAUSTED, OK, Connection, Event, arrived
from moesaic.bench.server.faults import ended, term_while_it_loads, watched
from moesaic.bench.server.measure import Generator, factor, growth, milliseconds
from moesaic.bench.server.overload import GENERATE, Caller, Told, phase, poisson, tokens_of, when_told
from moesaic.bench.server.processes import TimedServer
from moesaic.bench.server.rolling import measure_rolling
from moesaic.bench.server.streams import STREAM, Stream, Streams, asking, rates
from moesaic.bench.server.timed_engine import Pace, TimedEngine, step_of
from moesaic.engine.request import FinishReason, Request, Stopping
from moesaic.models.errors import AddressError, SetupError
from moesaic.server.tokens import read_tokens

QUICK = Pace(step=0.005)


@pytest.fixture(scope="module")
def timed() -> Iterator[TimedServer]:
    with TimedServer(QUICK, 8, max_requests=8, drain_seconds=0.1, http=False) as server:
        yield server


@pytest.fixture
def connection(timed: TimedServer) -> Iterator[Connection]:
    with Connection(timed.address) as connection:
        yield connection


# --- arithmetic ----------------------------------------------------------------------------------------------------


def test_a_token_tells_when_its_step_ended() -> None:
    numbers = [timed_engine.FIRST_TOKEN + step % timed_engine.NUM_TOKENS for step in (1000, 1001, 1252, 1253)]
    told = [step_of(token, at, 0.5) for token, at in zip(numbers, (500.1, 500.6, 630.0, 700.0), strict=True)]
    assert told == [500.0, 500.5, 626.0, 626.5]


def test_a_factor_is_of_what_the_luckiest_and_the_poorest_got() -> None:
    assert factor({1: 6, 2: 2, 3: 4}) == 3.0
    assert factor({1: 6, 2: 0}) is None and factor({}) is None


def test_shares_and_growth() -> None:
    assert milliseconds([0.001 * i for i in range(100)], 0.5, 0.99) == {"p50": 50.0, "p99": 99.0}
    assert milliseconds([], 0.5) == {}
    assert growth(100_000_000, 105_000_000)["grown_share"] == 0.05


def test_a_generator_that_is_late_says_that_it_was_the_limit() -> None:
    punctual, late = Generator(), Generator()
    for i in range(100):
        punctual.late(-0.001)
        late.late(0.1 if i < 5 else 0.0)
    assert late.figures()["was_the_limit"] and late.figures()["late_ms_p99"] == 100.0
    assert punctual.figures()["late_ms_p99"] == 0.0
    assert [*run.limits({"a": {"b": {"generator": late.figures()}, "c": {"was_the_limit": False}}})] == ["a/b"]


def test_arrivals_come_at_their_rate_by_each_caller_in_turn(connection: Connection) -> None:
    callers = [Caller(i, connection) for i in range(10)]
    due = poisson(callers, 100.0, 50.0, 20.0)
    assert 1800 < len(due) < 2200 and due == sorted(due) and 50.0 < due[0][0] and due[-1][0] < 70.0
    assert [caller.name for _, _, caller in due[:12]] == [*range(10), 0, 1]


def test_what_is_answered_too_late_is_no_goodput(connection: Connection) -> None:
    told, caller = Told(since=10.0), Caller(0, connection)
    for at, status in ((9.0, OK), (11.0, OK), (18.0, OK), (12.0, EXHAUSTED), (12.0, 14)):
        told.note(caller, Event(connection, 1, at, status=status), meant=10.0)
    found = told.figures(1, seconds=2.0)
    assert found["goodput_per_second"] == 0.5 and found["refusals"] == 1 and found["other_statuses"] == {"14": 1}


def test_callers_come_when_they_are_told(connection: Connection) -> None:
    times = [when_told(Event(connection, 1, 5.0, status=status, pushback=at), 5.0) for status, at in PUSHED]
    assert times == [5.0, 5.25, 6.0]


PUSHED = ((OK, None), (EXHAUSTED, 0.25), (EXHAUSTED, None))


# --- the engine ----------------------------------------------------------------------------------------------------


def test_a_timed_engine_keeps_its_pace_and_gives_its_blocks_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr(timed_engine, "time", clock)
    engine = TimedEngine(Pace(step=0.5, prompt=16, blocks=6), num_slots=2)
    for key in range(3):
        engine.add(Request(key, (300,) * 16, stopping=Stopping(3)))
    rows = engine.step()  # both prompts are read by halves
    assert not rows and engine.load.running == 2 and engine.load.waiting == 1 and engine.load.free_blocks == 2
    engine.abort(1)
    told = [(clock.now, row) for _ in range(4) for row in engine.step()]
    first = timed_engine.FIRST_TOKEN
    tokens = [(at, row.token_ids) for at, row in told if row.key == 0]
    assert tokens == [(1.0, (first + 2,)), (1.5, (first + 3,)), (2.0, (first + 4,))]
    assert told[-1][1].finish is FinishReason.LENGTH and engine.load.free_blocks == 6 and not engine.has_work


# --- the connection ------------------------------------------------------------------------------------------------


def ends(connection: Connection, count: int) -> list[Event]:
    found: list[Event] = []
    while len(found) < count and not connection.is_over:
        found += [event for event in arrived([connection], 1.0) if event.message is None]
    return found


def test_a_call_is_told_with_its_status(timed: TimedServer, connection: Connection) -> None:
    connection.call(GENERATE, asking(2))
    connection.call(GENERATE, asking(0))
    connection.call("/no.Such/Method", b"")
    statuses = {event.status for event in ends(connection, 3)}
    assert statuses == {status.value[0] for status in EXPECTED}


EXPECTED = (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)


def test_who_is_refused_is_told_when_to_come_again(timed: TimedServer, connection: Connection) -> None:
    for _ in range(20):
        connection.call(STREAM, asking(40))
    refused = [event for event in ends(connection, 20) if event.status == EXHAUSTED]
    assert refused and all(event.pushback for event in refused)


def test_nobody_at_an_address_is_told() -> None:
    with pytest.raises(AddressError, match="nobody answers at 127.0.0.1:1"):
        Connection("127.0.0.1:1")


# --- the parts, with small numbers ---------------------------------------------------------------------------------


def test_streams_are_counted_and_none_ends_in_an_error(timed: TimedServer) -> None:
    found = rates(timed, count=8, seconds=0.8, asked=10)
    assert found["errors"] == 0 and found["requests"] > 0 and found["messages_per_second"] > 0
    assert found["memory"]["after_mb"] > 20


def test_tokens_of_another_count_than_asked_are_an_error(timed: TimedServer, connection: Connection) -> None:
    streams = Streams([connection], 1, asked=2)
    streams.begin()
    next(iter(streams.open.values())).asked = 3
    while not streams.ended:
        streams.pump(0.05)
    assert streams.errors >= 1


def test_a_pause_that_does_not_end_is_a_pause(connection: Connection) -> None:
    silent, heard = Streams([connection], 1), Streams([connection], 1)
    heard.gaps, heard.open = [0.02], {(connection, 1): Stream(9, last=-100.0)}
    for streams in (silent, heard):
        streams.end(since=-50.0)
    assert silent.gaps[0] >= 50.0 and heard.gaps[1] >= 100.0


def test_a_probe_that_is_not_answered_is_counted(connection: Connection) -> None:
    probe = Probe(connection, due=-5.0)
    assert probe.ask(Generator()) and not probe.ask(Generator())
    probe.end()
    assert probe.healths[0] >= 5.0


def test_overload_has_answers_refusals_and_a_share_for_everybody(timed: TimedServer) -> None:
    with ExitStack() as stack:
        callers = [Caller(i, stack.enter_context(Connection(timed.address))) for i in range(4)]
        found = phase(timed, callers, 0.5, rate=600.0)
    assert found["goodput_per_second"] > 0 and found["refusals"] > 0 and not found["other_statuses"]
    assert found["factor"] and found["callers"] == 4


def test_tokens_are_made_for_each_caller(tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("tokens") / "tokens.jsonl"
    assert len(tokens_of(file, 3)) == len({known.name for known in read_tokens(file).values()}) == 3


def test_cancels_at_every_stage_leave_nothing(timed: TimedServer, connection: Connection) -> None:
    storm = Storm([connection])
    found = storm_over(timed, storm, 60.0, 200)
    assert found["cancels"] >= 200 and len(found["stages"]) == 4
    assert not any(found["left"].values()) and found["connections_lost"] == 0


def test_what_is_held_is_not_nothing(timed: TimedServer, connection: Connection) -> None:
    stream = connection.call(STREAM, asking(2000))
    while not any(event.message for event in arrived([connection], 1.0)):
        pass
    with timed.admin() as admin:
        held = ledger(admin)
    connection.reset(stream)
    assert held["slots"] == held["places"] == held["requests"] == 1 and held["blocks"] > 100


def test_honest_streams_are_watched_beside_others() -> None:
    found = beside("resets", 0.4, 2)
    assert found["beside"]["errors"] == found["beside"]["health_wrong"] == 0
    assert found["between_tokens_ratio"] > 0 and found["beside"]["peak_mb"] > 20


def test_a_killed_engine_is_told_and_a_server_ends_well() -> None:
    with TimedServer(QUICK, 8, drain_seconds=0.1, http=False) as server:
        with watched(server, 4) as watch:
            found = watch.after_signal(server.engine, signal.SIGKILL)
        assert found["told"] == 4 and found["not_serving_seconds"] and found["serving_again_seconds"]
        assert ended(server)["status"] == 0


def test_servers_are_started_again_one_after_the_other() -> None:
    found = measure_rolling(2, 40.0, rest=0.1)
    assert found["calls"] > 0 and found["failed"] == 0 and [end["status"] for end in found["ends"]] == [0, 0]


# --- what goes wrong, and the page ---------------------------------------------------------------------------------


def test_a_server_that_dies_is_told_and_no_figure_is_given() -> None:
    with TimedServer(QUICK, 8, http=False) as server, Connection(server.address) as connection:
        streams = Streams([connection], 4, asked=1000)
        streams.begin()
        streams.pump(0.05)
        server.process.kill()
        while not connection.is_over:
            streams.pump(0.05)
        assert streams.errors == 4
        with pytest.raises(SetupError, match="the server ended with code -9 while it was measured"):
            server.check()


def test_a_run_with_a_dead_server_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    out = tmp_path_factory.mktemp("out") / "load.json"

    def dies() -> None:
        raise SetupError("the server ended with code 3")

    monkeypatch.setattr("sys.argv", ["run", str(out)])
    monkeypatch.setattr(run, "parts", lambda size: {"streams": dies})
    assert run.main() == 1 and not out.exists()
    assert "error: streams: the server ended with code 3" in capsys.readouterr().err


def test_a_part_can_be_measured_alone_and_an_unknown_one_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, begun, names = tmp_path / "load.json", list[str](), [*run.parts(run.FULL)]

    def measure(name: str) -> dict[str, Any]:
        begun.append(name)
        return {}

    monkeypatch.setattr(run, "parts", lambda size: {name: partial(measure, name) for name in names})
    monkeypatch.setattr("sys.argv", ["run", str(out), "--full", "--only", "cancels,rolling"])
    assert run.main() == 0 and begun == ["cancels", "rolling"]
    assert json.loads(out.read_text())["size"]["sustained"] == 300.0
    monkeypatch.setattr("sys.argv", ["run", str(out), "--only", "nothing"])
    with pytest.raises(SystemExit):
        run.main()
    assert "there is no part nothing; there are streams" in capsys.readouterr().err


def test_a_server_that_still_loads_ends_when_it_is_told() -> None:
    assert term_while_it_loads()["status"] == 0


def test_the_page_says_what_was_not_reached() -> None:
    page = render("server")
    kinds = figures.result("server/load")["beside"]["kinds"]
    assert all(f"| {kind} |" in page for kind in kinds) and "None" not in page
    assert (ROOT / "bench/server/attacks.py").exists()
