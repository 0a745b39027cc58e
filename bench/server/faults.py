"""Engines that are killed or stopped, and servers that are told to end in whatever state: who hears of it, and when."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

from ...models.errors import SetupError
from .attacks import EVERYBODY
from .beside import CHECK, SERVING
from .connection import Connection, arrived
from .measure import milliseconds
from .processes import TimedServer
from .streams import STREAM, asking
from .timed_engine import Pace

_LONG_LOAD_SECONDS = 300.0
_LOAD_SECONDS, _SLOTS = 0.2, 64
_PACE = Pace(step=0.02, load=_LOAD_SECONDS)
_DRAIN_SECONDS = 1.0
_LONG = 5_000  # tokens: longer than anything here takes
_LIMIT_SECONDS, _LOOK_SECONDS = 60.0, 0.01


class Watch:
    """What callers are told after a fault: their streams, the health, and whether a new request is answered."""

    def __init__(self, streams: Connection, probe: Connection, count: int) -> None:
        self._streams, self._probe = streams, probe
        self._open = {streams.call(STREAM, asking(_LONG)) for _ in range(count)}
        self._begun = set[int]()

    def until_begun(self) -> None:
        """Until every stream has had a token. Raises SetupError where that never is."""
        end = time.monotonic() + _LIMIT_SECONDS
        while len(self._begun) < len(self._open):
            if time.monotonic() > end or self._streams.is_over:
                raise SetupError(f"{len(self._begun)} of {len(self._open)} streams have begun: nothing can be measured")
            self._begun |= {event.stream for event in arrived([self._streams], _LOOK_SECONDS) if event.message}

    def after_signal(self, process_id: int, number: signal.Signals) -> dict[str, Any]:
        """Sends it, and gives the seconds from then to each thing that was told; None for what never was."""
        found: dict[str, Any] = {"callers": len(self._open)}
        told = list[float]()
        os.kill(process_id, number)
        began = time.monotonic()
        down = up = None
        asked = self._probe.call(CHECK, EVERYBODY)
        while (up is None or self._open) and time.monotonic() < began + _LIMIT_SECONDS:
            for event in arrived([self._streams, self._probe], _LOOK_SECONDS):
                if event.connection is self._streams:
                    if event.message is None and event.stream in self._open:
                        self._open.discard(event.stream)
                        told.append(event.at - began)
                elif event.stream == asked and event.message is not None:
                    serving = event.message == SERVING
                    down = event.at - began if down is None and not serving else down
                    up = event.at - began if up is None and down is not None and serving else up
                elif event.stream == asked:
                    asked = self._probe.call(CHECK, EVERYBODY)
        found |= {"told": len(told), "told_ms": milliseconds(told, 0.5, 1.0)}
        return found | {"not_serving_seconds": _rounded(down), "serving_again_seconds": _rounded(up)}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def measure_faults(count: int) -> dict[str, Any]:
    """Both signals to an engine with `count` callers, then the end of a server in every state."""
    found: dict[str, Any] = {"load_seconds": _LOAD_SECONDS, "drain_seconds": _DRAIN_SECONDS}
    for name, number in (("SIGKILL", signal.SIGKILL), ("SIGSTOP", signal.SIGSTOP)):
        with _server() as server, watched(server, count) as watch:
            found[name] = watch.after_signal(server.engine, number)
            server.check()
            found[name]["answered_after_seconds"] = _answer(server)
    ends = {state: _term(state, count) for state in STATES}
    return found | {"SIGTERM": {"it still loads": term_while_it_loads(), **ends}}


def _answer(server: TimedServer) -> float | None:
    """Seconds until a request that is sent now, and again when it is refused, has a token; None where it never has."""
    began = time.monotonic()
    with Connection(server.address) as connection:
        connection.call(STREAM, asking(1))
        while time.monotonic() < began + _LIMIT_SECONDS and not connection.is_over:
            for event in arrived([connection], _LOOK_SECONDS):
                if event.message is not None:
                    return round(event.at - began, 3)
                connection.call(STREAM, asking(1))
    return None


@contextmanager
def _server() -> Iterator[TimedServer]:
    with TimedServer(_PACE, _SLOTS, drain_seconds=_DRAIN_SECONDS, http=False) as server:
        yield server


@contextmanager
def watched(server: TimedServer, count: int) -> Iterator[Watch]:
    """So many streams that have begun."""
    with Connection(server.address) as streams, Connection(server.address) as probe:
        watch = Watch(streams, probe, count)
        watch.until_begun()
        yield watch


def _idle(server: TimedServer) -> None:
    """Nobody asks anything."""


def _killed(server: TimedServer) -> None:
    os.kill(server.engine, signal.SIGKILL)


def _stopped(server: TimedServer) -> None:
    os.kill(server.engine, signal.SIGSTOP)


STATES: dict[str, Callable[[TimedServer], None]] = {
    "idle": _idle, "with streams": _idle, "its engine was killed": _killed, "its engine is stopped": _stopped,
}  # fmt: skip


def _term(state: str, count: int) -> dict[str, Any]:
    """Seconds from SIGTERM to the end, and the exit status. Streams are there in all states but the idle one."""
    with ExitStack() as stack:
        server = stack.enter_context(_server())
        if state != "idle":
            stack.enter_context(watched(server, count))
        engine = server.engine
        STATES[state](server)
        try:
            return ended(server)
        finally:
            with suppress(ProcessLookupError):  # one that is stopped hears nobody
                os.kill(engine, signal.SIGKILL)


def term_while_it_loads() -> dict[str, Any]:
    """The same of a server whose engine takes minutes to load, once it listens."""
    pace = replace(_PACE, load=_LONG_LOAD_SECONDS)
    with TimedServer(pace, _SLOTS, wait=False, drain_seconds=_DRAIN_SECONDS, http=False) as server:
        if server.process.stdout is not None:
            server.process.stdout.readline()
        return ended(server)


def ended(server: TimedServer) -> dict[str, Any]:
    """Tells a server to end, and how that went. status: None where it did not."""
    began = time.monotonic()
    server.process.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.process.wait(_LIMIT_SECONDS)
    return {"status": server.process.poll(), "seconds": round(time.monotonic() - began, 3)}
