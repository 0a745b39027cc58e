"""Ten times more requests than can be answered: what is answered in time, how soon the rest is refused, who gets what.

Open loop: a request leaves when it is meant to, however the server does, and is measured from then. Two kinds of
callers: those who send on whatever they are told, and those who come back when they are told to.
"""

import heapq
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...server.tokens import add_token, digest_of, new_token
from .connection import EXHAUSTED, OK, Connection, Event, arrived
from .measure import Generator, factor, milliseconds
from .processes import TimedServer
from .streams import asking
from .timed_engine import Pace

GENERATE = "/moesaic.v1.Generation/Generate"
_PACE, _SLOTS, _TOKENS = Pace(step=0.01), 8, 8  # a hundred answers a second
_FAST_SLOTS = 16  # where each of hundreds is to be answered several times
_PLACES = 64
_TIMES = 10.0
_WITHIN = 5.0  # seconds after which an answer has lost its use
_LOOK = 0.05


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, on which connection, with which headers."""

    name: int
    connection: Connection
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Told:
    """What callers were told since then, and after how many seconds from when their request was meant to leave."""

    since: float = 0.0
    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    other: Counter[int] = field(default_factory=Counter)  # by status
    lost: int = 0  # with their connection
    by_caller: Counter[int] = field(default_factory=Counter)

    def note(self, caller: Caller, event: Event, meant: float) -> None:
        """One request is over."""
        status, seconds = event.status, event.at - meant
        if event.at < self.since:
            return
        if status == OK:
            self.answered.append(seconds)
            self.by_caller[caller.name] += seconds <= _WITHIN
        elif status == EXHAUSTED:
            self.refused.append(seconds)
        else:
            self.other[status] += 1

    def figures(self, callers: int, seconds: float) -> dict[str, Any]:
        """Goodput is of answers within the time that they are of use."""
        counts = {name: self.by_caller[name] for name in range(callers)}
        return {
            "goodput_per_second": round(sum(counts.values()) / seconds, 2),
            "answers_ms": milliseconds(self.answered, 0.5, 0.99),
            "refusals": len(self.refused),
            "refusals_ms": milliseconds(self.refused, 0.5, 0.99),
            "other_statuses": {str(status): count for status, count in self.other.items()},
            "lost": self.lost,
            "callers": callers,
            "fewest": min(counts.values()),
            "most": max(counts.values()),
            "factor": factor(counts),
        }


Due = list[tuple[float, int, Caller]]  # a heap: when, a number, who


def poisson(callers: Sequence[Caller], rate: float, begin: float, seconds: float, seed: int = 0) -> Due:
    """Arrivals at this rate for so long, each by one of the callers in turn."""
    chance, at = random.Random(seed), begin
    due: Due = []
    while (at := at + chance.expovariate(rate)) < begin + seconds:
        due.append((at, len(due), callers[len(due) % len(callers)]))
    return due


def played(
    due: Due, end: float, told: Told, generator: Generator, again: Callable[[Event, float], float | None] | None = None
) -> None:
    """Sends what is due until `end` and notes what comes. again: when the caller of an answer asks next."""
    connections = [*{id(each.connection): each.connection for _, _, each in due}.values()]
    message, flying, number = asking(_TOKENS), dict[tuple[Connection, int], tuple[Caller, float]](), len(due)
    while (now := time.monotonic()) < end:
        while due and due[0][0] <= now:
            meant, _, caller = heapq.heappop(due)
            stream = caller.connection.call(GENERATE, message, **caller.headers)
            flying[caller.connection, stream] = (caller, meant)
            generator.late(time.monotonic() - meant)
        left = min(due[0][0] if due else end, end) - time.monotonic()
        for event in arrived(connections, min(left, _LOOK)):
            if event.message is None and (known := flying.pop((event.connection, event.stream), None)):
                caller, meant = known
                told.note(caller, event, meant)
                if again is not None and (at := again(event, event.at)) is not None:
                    number += 1
                    heapq.heappush(due, (at, number, caller))
    told.lost = sum(connection.is_over for connection, _ in flying)


def when_told(event: Event, now: float) -> float:
    """A caller that was answered asks again at once, another one when it was told to, or in a second."""
    return now if event.status == OK else now + (event.pushback if event.pushback is not None else 1.0)


@contextmanager
def server_of(slots: int, callers: int, tokens: bool) -> Iterator[tuple[TimedServer, list[Caller]]]:
    """A server and callers: each on a connection of its own, or all on a few, each by its token."""
    with ExitStack() as stack:
        more: dict[str, Any] = {"max_requests": _PLACES, "http": False, "max_streams": 1024}
        given: list[dict[str, str]] = [{} for _ in range(callers)]
        if tokens:
            file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "tokens.jsonl"
            given = [{"authorization": f"Bearer {token}"} for token in tokens_of(file, callers)]
            more["tokens"] = str(file)
        server = stack.enter_context(TimedServer(_PACE, slots, **more))
        count = 1 if tokens else callers
        connections = [stack.enter_context(Connection(server.address)) for _ in range(count)]
        yield server, [Caller(i, connections[i % count], headers) for i, headers in enumerate(given)]


def tokens_of(file: Path, count: int) -> list[str]:
    """New tokens, and the file that knows them."""
    found = [add_token(file, "caller-0", ["generate"])]
    known = json.loads(file.read_text())
    found += [new_token() for _ in range(1, count)]
    lines = [{**known, "name": f"caller-{i}", "sha256": digest_of(token).hex()} for i, token in enumerate(found)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return found


def measure_overload(seconds: float, many: int, few: int) -> dict[str, Any]:
    """Goodput and refusals at ten times the peak, `few` callers; fairness among `many` who come when told."""
    found: dict[str, Any] = {"seconds": seconds, "times": _TIMES, "useful_within_seconds": _WITHIN}
    with server_of(_SLOTS, few, tokens=False) as (server, callers):
        peak = found["peak"] = phase(server, callers, max(1.0, seconds / 2), come_back=True, most=2 * _SLOTS)
        rate = _TIMES * peak["goodput_per_second"]
        found["tenfold"] = phase(server, callers, seconds, rate=rate)
    found["tenfold"]["goodput_of_peak"] = round(
        found["tenfold"]["goodput_per_second"] / max(peak["goodput_per_second"], 1e-9), 3
    )
    for name, tokens in (("own_connections", False), ("one_connection_with_tokens", True)):
        with server_of(_FAST_SLOTS, many, tokens) as (server, callers):
            found[name] = phase(server, callers, seconds, come_back=True)
    return found


def phase(
    server: TimedServer,
    callers: Sequence[Caller],
    seconds: float,
    come_back: bool = False,
    rate: float = 0.0,
    most: int | None = None,
) -> dict[str, Any]:
    """Some seconds of callers who come back when told, at most so many of them, or who arrive at a rate."""
    warm = min(2.0, seconds) if come_back else 0.0  # until the server knows its pace
    begin, generator = time.monotonic(), Generator()
    told = Told(begin + warm)
    due = [(begin, i, caller) for i, caller in enumerate(callers[:most])] if come_back else []
    due = due or poisson(callers, rate, begin, seconds)
    offered = len(due)
    played(due, begin + warm + seconds, told, generator, when_told if come_back else None)
    server.check()
    figures = told.figures(len(callers[:most]), seconds) | {"generator": generator.figures()}
    return figures if come_back else {"offered_per_second": round(offered / seconds, 1), **figures}
