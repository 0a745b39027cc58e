"""What an engine process does wrong, what its callers see, and how it comes back; rows of docs/faults.md."""

import asyncio
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from echo_engine import CRASH, HOLD, SPIN, STALL
from patience import PATIENCE_SECONDS, alive, eventually, stopped
from server_harness import Server, all_free

from moesaic.engine.options import EngineOptions
from moesaic.engine.request import Request
from moesaic.models.errors import Unavailable
from moesaic.proto import engine_pb2 as pb
from moesaic.server import backoff
from moesaic.server.client import Client
from moesaic.server.credits import SPARE
from moesaic.server.engine_child import EngineChild
from moesaic.server.engine_process import EngineProcess, EngineState
from moesaic.server.watchdog import TICK_SECONDS, Patience, Watchdog

ECHO = (sys.executable, str(Path(__file__).with_name("echo_engine.py")))


def engine_of(client: Client) -> int:
    return int(client.model().device)


def told_to_come_back(client: Client, prompt: list[int]) -> bool:
    with pytest.raises(Unavailable) as caught:
        client.generate(prompt)
    return caught.value.reason == "ENGINE_RESTARTING" and caught.value.retry_after_seconds >= 1


def serves_again(client: Client, engine: int) -> bool:
    client.wait_until_ready(PATIENCE_SECONDS)
    return client.generate([5], max_new_tokens=2).token_ids == (5, 5) and engine_of(client) != engine


def test_a_stopped_engine_that_idles_is_killed_and_started_again() -> None:
    with Server(silent=1.5) as server, server.client() as client:
        engine = engine_of(client)
        with stopped(engine):
            eventually(lambda: not alive(engine))
        assert serves_again(client, engine)
        eventually(lambda: "has been silent for" in server.log and "is started again in" in server.log)


def test_all_callers_of_a_stopped_engine_are_told_when_to_come_back() -> None:
    with Server(silent=1.5) as server, server.client() as client, ThreadPoolExecutor(64) as pool, server.held():
        engine = engine_of(client)
        asked = [pool.submit(told_to_come_back, client, [HOLD]) for _ in range(64)]
        eventually(lambda: (load := client.model().load) is not None and load.waiting == 64 - 8)
        with stopped(engine):
            assert all(each.result() for each in asked)
            eventually(lambda: not alive(engine))
        assert client.health() == "NOT_SERVING"


@pytest.mark.parametrize(
    ("prompt", "patience", "words"),
    [
        (STALL, {"hang": 1.0}, "and it computes nothing: it was killed"),
        (SPIN, {"stall_seconds": 0.25}, "hangs: no step has ended for 1.5 s: it was killed"),
    ],
)
def test_an_engine_whose_step_does_not_end_is_killed(prompt: int, patience: dict[str, float], words: str) -> None:
    with Server(**patience) as server, server.client() as client:
        engine = engine_of(client)
        with server.held():  # so short a stall may also be one of this machine: then the caller asks again
            eventually(lambda: told_to_come_back(client, [prompt]) and words in server.log)
        assert serves_again(client, engine)


def test_an_engine_that_hangs_in_loading_ends_a_server_that_starts() -> None:
    with Server(engine=EngineOptions(device="endless"), load_seconds=1, said="") as server:
        assert server.end() == 2
        assert "has not loaded within 1 s: it was killed while it was loading" in server.log


def test_an_engine_that_hangs_in_loading_again_is_killed_and_tried_again() -> None:
    with Server(load_seconds=3) as server, server.client() as client:
        engine = engine_of(client)
        with server.held():  # no engine starts
            os.kill(engine, signal.SIGKILL)
            eventually(lambda: "has not loaded within 3 s" in server.log)
        assert serves_again(client, engine)


def test_a_term_signal_ends_a_server_whose_engine_is_stopped() -> None:
    with Server(drain_seconds=0.1) as server, server.client() as client:
        engine = engine_of(client)
        with stopped(engine):
            server.send(signal.SIGTERM)
            assert server.end() == 0 and not alive(engine)


def test_requests_that_come_and_go_while_the_engine_is_stopped_never_reach_it() -> None:
    with Server() as server, server.client() as client:
        before = submitted(client)
        with server.held():
            streams = [client.stream([HOLD], max_new_tokens=5) for _ in range(8)]
            assert all(next(stream) for stream in streams)
            with stopped(engine_of(client)):
                for i in range(300):
                    client.stream([5] * 500, request_id=f"gone-{i}").close()
        assert all(list(stream) for stream in streams)
        assert client.generate([5], max_new_tokens=2).token_ids == (5, 5)
        eventually(lambda: all_free(client))
        assert submitted(client) - before <= 8 + SPARE + 1


def submitted(client: Client) -> int:
    load = client.model().load
    assert load is not None
    return load.num_blocks


def test_an_engine_that_fails_to_start_again_is_tried_until_it_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "LONGEST_SECONDS", 0.01)
    mark = tmp_path / "mark"

    async def scene() -> None:
        failed = list[bool]()
        options = EngineOptions(device="once", dtype=str(mark))
        engine = EngineProcess("m", "", options, lambda: None, ECHO)
        await engine.start()
        with pytest.raises(Unavailable, match="being started again"):
            await engine.submit(Request(0, (CRASH,))).take()
            while True:
                await engine.submit(Request(0, (CRASH,))).take()
        while engine.state is not EngineState.SERVING:
            await asyncio.sleep(0.01)
            failed.append(True)
            if len(failed) == 100:
                mark.unlink()
        await engine.stop()
        assert len(failed) >= 100

    asyncio.run(asyncio.wait_for(scene(), PATIENCE_SECONDS))


def test_pauses_become_longer_up_to_a_limit_and_are_never_alike() -> None:
    assert 0.25 <= backoff.pause_seconds(0) <= 0.5 and 1 <= backoff.pause_seconds(2) <= 2
    assert all(30 <= backoff.pause_seconds(tries) <= 60 for tries in (7, 50, 10_000))
    assert backoff.pause_seconds(7) != backoff.pause_seconds(7)


def ticks(watchdog: Watchdog, seconds: float, *, loads: bool = False, owes: bool = False) -> str | None:
    found = [watchdog.tick(loads, owes) for _ in range(round(seconds / TICK_SECONDS))]
    return next((each for each in found if each), None)


def beat(watchdog: Watchdog, cpu_seconds: float) -> None:
    watchdog.heard(pb.Event(beat=pb.Beat(cpu_seconds=cpu_seconds)))


def test_a_silent_process_is_wrong_after_its_time_and_later_while_it_loads() -> None:
    assert ticks(Watchdog(Patience()), 5) is None
    assert ticks(Watchdog(Patience()), 6) == "has been silent for 5.5 s"
    assert ticks(Watchdog(Patience()), 60, loads=True) is None


def test_a_long_step_that_computes_is_waited_for() -> None:
    watchdog = Watchdog(Patience(step=100))
    for second in range(99):
        beat(watchdog, float(second))
        assert ticks(watchdog, 1, owes=True) is None
    beat(watchdog, 99.0)
    assert ticks(watchdog, 2, owes=True) == "hangs: no step has ended for 100.5 s"


def test_a_step_that_computes_nothing_is_wrong_sooner_and_an_idle_engine_is_not() -> None:
    for owes, words in ((True, "computes nothing"), (False, "")):
        watchdog = Watchdog(Patience())
        found = [beat(watchdog, 7.0) or ticks(watchdog, 1, owes=owes) for _ in range(60)]  # type: ignore[func-returns-value]
        assert words in (next((each for each in found if each), None) or "")
        assert any(found) == owes


def test_whoever_is_told_to_end_while_a_process_ends_does_end() -> None:
    """The keeper of an engine that was killed would else start it again, and the server wait for it for ever."""

    async def ended_as_cancelled() -> bool:
        gone = asyncio.get_running_loop().create_future()
        none: Any = SimpleNamespace(returncode=None, wait=lambda: gone)
        child = EngineChild(none, none, none, none, lambda: False)
        waiting = asyncio.create_task(child.exits_within(PATIENCE_SECONDS))
        await asyncio.sleep(0)
        gone.set_result(0)
        waiting.cancel()
        child._guard.cancel()
        await asyncio.wait((waiting, child._guard))
        return waiting.cancelled()

    assert asyncio.run(ended_as_cancelled())
