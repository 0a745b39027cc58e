"""Drives one server at one level, and keeps what happened to each request.

An open loop: a request leaves when it is meant to, however the server does, and its time counts from then, so that what
a slow server does to those behind is not left out (coordinated omission; Tene 2013). Users of a closed loop ask as soon
as they have their answer; how much later than that they do is the generator's lateness.
"""

import os
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from ...models.errors import AddressError
from ..energy import read_energy
from ..server.measure import Generator
from .arrivals import Asked, Level
from .door import LOST, OK, Came, Door
from .pages import Held, Watch

UNFINISHED = "not finished in time"
EMPTY = "ended without a token"
_LOOK_SECONDS = 0.1
_AHEAD = 10  # of niceness
_GONE_AFTER = 3  # requests in a row that could not be sent, or whose connection was lost

Prompts = Callable[[int, int], str]  # a number and a length in tokens to a prompt that nobody else sends


@dataclass(slots=True)
class Record:
    """One request, in seconds after the beginning. arrivals: of messages with tokens. end: "" while it is open."""

    asked: Asked
    meant: float
    arrivals: "array[float]" = field(default_factory=lambda: array("d"))
    tokens: int = 0
    prompt_tokens: int | None = None
    ended: float = 0.0
    end: str = ""
    said: str = ""

    @property
    def ok(self) -> bool:
        """It ended well, with tokens."""
        return self.end == OK and len(self.arrivals) > 0

    @property
    def outcome(self) -> str:
        """OK, or in a few words why it does not count as an answer."""
        return EMPTY if self.end == OK and not self.arrivals else self.end


@dataclass(slots=True)
class Driven:
    """What came of a level. gone: why the server was given up before the end; "" where it was not.

    stepped: seconds by which the machine's clock was set meanwhile; times here are those of the monotonic one.
    joules: that this machine spent, where it counts them. held: seconds, and the share of pages that requests held.
    """

    records: list[Record]
    seconds: float
    generator: dict[str, object]
    gone: str = ""
    stepped: float = 0.0
    joules: float | None = None
    held: list[tuple[float, float]] = field(default_factory=list)


def drive(
    door: Door, level: Level, prompts: Prompts, patience: float, first: int = 0, held: Held | None = None
) -> Driven:
    """All requests of a level; those that are open `patience` seconds after its end are given up.

    first: number of the first one. held: tells what of the server's pages they hold.
    """
    with Watch(held) as watch, _ahead_of_servers():
        return _Drive(door, level, prompts, patience, first).run(watch)


@contextmanager
def _ahead_of_servers() -> Iterator[None]:
    """This thread goes first where it may: a server on the same machine can take all of its processors."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, usual - _AHEAD)
    try:
        yield
    finally:
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, usual)


class _Drive:
    def __init__(self, door: Door, level: Level, prompts: Prompts, patience: float, first: int) -> None:
        self._door, self._level, self._prompts, self._patience = door, level, prompts, patience
        self._records: list[Record] = []
        self._open: dict[int, Record] = {}
        self._first, self._failed, self._gone = first, 0, ""
        self._freed: deque[float] = deque()  # when users had their answers and may ask again
        # of an open loop all are there before the first one leaves
        self._texts = [] if level.users else [self._text(key, asked) for key, asked in enumerate(level.requests)]

    def run(self, watch: Watch) -> Driven:
        self._generator, wall, energy = Generator(), time.time(), read_energy()
        self._began = time.monotonic()
        if self._level.users:
            self._closed()
        else:
            self._open_loop()
        self._drain()
        seconds = time.monotonic() - self._began
        stepped = time.time() - wall - seconds
        joules = energy.until(read_energy())
        facts = self._generator.figures(), self._gone, round(stepped, 3), joules, watch.since(self._began)
        return Driven(self._records, seconds, *facts)

    def _text(self, key: int, asked: Asked) -> str:
        return self._prompts(self._first + key, asked.prompt_tokens)

    def _open_loop(self) -> None:
        for asked in self._level.requests:
            at = asked.at or 0.0
            while not self._gone and (wait := at - self._now) > 0:
                self._take(min(wait, _LOOK_SECONDS))
            if self._gone:
                return
            self._generator.late(self._now - at)
            self._send(asked, at, self._texts[len(self._records)])
            self._take(0.0)

    def _closed(self) -> None:
        requests, number = self._level.requests, 0
        while self._now < self._level.seconds and not self._gone:
            while len(self._open) < self._level.users and not self._gone:
                self._ask_again(requests[number % len(requests)])
                number += 1
            self._take(_LOOK_SECONDS)

    def _ask_again(self, asked: Asked) -> None:
        text, began = self._text(len(self._records), asked), self._now
        if self._freed:
            self._generator.late(began - self._freed.popleft())
        self._send(asked, began, text)

    def _drain(self) -> None:
        end = self._now + self._patience
        while self._open and not self._gone and self._now < end:
            self._take(_LOOK_SECONDS)
        for record in self._open.values():
            record.end, record.ended = UNFINISHED, self._now

    @property
    def _now(self) -> float:
        return time.monotonic() - self._began

    def _send(self, asked: Asked, meant: float, text: str) -> None:
        key, record = len(self._records), Record(asked, meant)
        self._records.append(record)
        try:
            self._door.send(key, text, asked)
        except AddressError as error:
            record.end, record.ended = "no connection", self._now
            self._lost(str(error))
        else:
            self._open[key] = record

    def _lost(self, why: str) -> None:
        self._failed += 1
        self._gone = why if self._failed >= _GONE_AFTER else ""

    def _take(self, seconds: float) -> None:
        for came in self._door.arrived(seconds):
            record = self._open.get(came.key)
            if record is not None:
                self._note(record, came)

    def _note(self, record: Record, came: Came) -> None:
        at = came.at - self._began
        if came.tokens:
            record.arrivals.append(at)
            record.tokens += came.tokens
        if came.prompt_tokens is not None:
            record.prompt_tokens = came.prompt_tokens
        if came.all_tokens:
            record.tokens = came.all_tokens
        if came.end:
            record.end, record.ended, record.said = came.end, at, came.said
            del self._open[came.key]
            self._freed.append(at)
            if came.end == LOST:
                self._lost("its connections were lost")
            else:
                self._failed = 0
