"""What honest callers see beside the worst ones: time between tokens, health, and the memory of the front end."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from .attacks import ATTACKS, EVERYBODY
from .connection import Connection, Event, arrived
from .measure import Generator, milliseconds
from .processes import TimedServer, resident_bytes
from .streams import Streams
from .timed_engine import Pace

CHECK = "/grpc.health.v1.Health/Check"
_PACE, _SLOTS, _PLACES = Pace(step=0.02), 64, 64
_ASKED = 100  # tokens: two seconds
_PROBE_SECONDS, _LOOK_SECONDS, _BEGIN_SECONDS = 0.05, 0.01, 0.5
SERVING = b"\x08\x01"


@dataclass(slots=True)
class Probe:
    """Asks for the health again and again, each time from when it was meant to."""

    connection: Connection
    due: float = field(default_factory=time.monotonic)
    free: float = 0.0  # since when nothing is asked
    asked: float | None = None
    healths: list[float] = field(default_factory=list)
    wrong: int = 0

    def ask(self, generator: Generator) -> bool:
        """Asks, if it is time for it."""
        now = time.monotonic()
        if self.asked is not None or now < self.due:
            return False
        generator.late(now - max(self.due, self.free))
        self.connection.call(CHECK, EVERYBODY)
        self.asked, self.due = self.due, now + _PROBE_SECONDS
        return True

    def take(self, event: Event) -> None:
        """Notes what came."""
        if event.message is not None:
            self.wrong += event.message != SERVING
        elif self.asked is not None:
            self.healths.append(event.at - self.asked)
            self.asked, self.free = None, event.at

    def end(self) -> None:
        """Counts an answer that is still waited for as if it came now."""
        if self.asked is not None:
            self.healths.append(time.monotonic() - self.asked)

    def left(self) -> float:
        """Seconds until it is to be asked."""
        return _LOOK_SECONDS if self.asked is not None else min(_LOOK_SECONDS, self.due - time.monotonic())


class Honest:
    """Some streams and a probe, each on a connection of its own, and the front end's memory."""

    def __init__(self, server: TimedServer, streams: Sequence[Connection], probe: Connection) -> None:
        self._server, self._probe = server, probe
        self.streams = Streams(streams, len(streams), _ASKED)

    def watched(self, seconds: float) -> dict[str, Any]:
        """What they see for so long."""
        self.streams.forget()
        generator, probe, peak = Generator(), Probe(self._probe), 0
        begin = time.monotonic()
        while time.monotonic() < begin + seconds and not self._probe.is_over:
            if probe.ask(generator):
                peak = max(peak, resident_bytes(self._server.process.pid))
            for event in arrived((*self.streams.connections, self._probe), probe.left()):
                (probe if event.connection is self._probe else self.streams).take(event)
            self.streams.open_again()
        self._server.check()
        probe.end()
        self.streams.end(begin)
        return self._figures(probe, time.monotonic() - begin) | {
            "peak_mb": round(peak / 1e6, 1), "generator": generator.figures()
        }  # fmt: skip

    def _figures(self, probe: Probe, seconds: float) -> dict[str, Any]:
        streams = self.streams
        return {
            "tokens_per_second": round(streams.tokens / seconds, 1),
            "errors": streams.errors, "refused": streams.refused,
            "between_tokens_ms": milliseconds(streams.gaps, 0.5, 0.99, 1.0),
            "health_ms": milliseconds(probe.healths, 0.5, 0.99, 1.0), "health_wrong": probe.wrong,
        }  # fmt: skip


def measure_beside(seconds: float, count: int) -> dict[str, Any]:
    """`count` honest streams beside each kind in turn, each on a server of its own, beside what they see before it."""
    return {"seconds": seconds, "streams": count, "kinds": {kind: beside(kind, seconds, count) for kind in ATTACKS}}


def beside(kind: str, seconds: float, count: int) -> dict[str, Any]:
    """`count` honest streams beside one kind, and for half of the time before it comes."""
    with ExitStack() as stack:
        server = stack.enter_context(TimedServer(_PACE, _SLOTS, max_requests=_PLACES))
        probe, *streams = (stack.enter_context(Connection(server.address)) for _ in range(1 + count))
        honest = Honest(server, streams, probe)
        honest.streams.begin()
        honest.watched(min(_BEGIN_SECONDS, seconds))
        quiet = honest.watched(seconds / 2)
        with attacked(kind, server):
            honest.watched(min(_BEGIN_SECONDS, seconds))
            others = honest.watched(seconds)
    ratio = others["between_tokens_ms"]["p99"] / quiet["between_tokens_ms"]["p99"]
    return {"quiet": quiet, "beside": others, "between_tokens_ratio": round(ratio, 2)}


@contextmanager
def attacked(kind: str, server: TimedServer) -> Iterator[None]:
    """Meanwhile callers of this kind are there."""
    command = [sys.executable, "-P", "-m", "moesaic.bench.server.attacks", kind, server.address, server.web]
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.kill()
