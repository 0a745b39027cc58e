"""Requests that are cancelled at random stages, long prompts among them: what is left of them when all are gone."""

import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ...server.admin_client import AdminClient
from ...server.client import Client
from .connection import Connection, Event, arrived
from .measure import Generator, growth
from .processes import TimedServer, resident_bytes
from .streams import STREAM, asking
from .timed_engine import Pace

_SLOTS, _FLYING, _CONNECTIONS = 32, 120, 4
_PACE = Pace(step=0.005, blocks=1 << 12)
_WARM = 0.1  # of the cancels, after which memory is looked at first
_IDLE_SECONDS, _LOOK_SECONDS = 30.0, 0.01
_LONGEST_WAIT = 0.1

HEADERS_ONLY, AT_ONCE, LATER, AFTER_TOKENS = "headers only", "at once", "later", "after tokens"
_STAGES = (HEADERS_ONLY, AT_ONCE, AT_ONCE, LATER, LATER, AFTER_TOKENS, AFTER_TOKENS)
_SHORT, _LONG_IDS, _LONG_TEXT = asking(60), asking(60, 4000), asking(60, text="once upon a time " * 3000)
_PROMPTS = (*(_SHORT,) * 16, _LONG_IDS, _LONG_TEXT)


@dataclass(slots=True)
class Flight:
    """A request and when it is cancelled: at a time, or with so many messages."""

    stage: str
    at: float
    messages: int


@dataclass(slots=True)
class Storm:
    """Keeps so many requests in flight and cancels each at a stage that chance names."""

    connections: Sequence[Connection]
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    flying: dict[tuple[Connection, int], Flight] = field(default_factory=dict)
    cancelled: Counter[str] = field(default_factory=Counter)
    ended: Counter[int] = field(default_factory=Counter)  # before they could be cancelled, by status

    def blow(self, count: int, deadline: float) -> None:
        """Cancels so many, or as many as there is time for; at the end none is in flight."""
        before = self.cancelled.total()
        while self.flying or (self.cancelled.total() - before < count and time.monotonic() < deadline):
            wanted = min(_FLYING, count - (self.cancelled.total() - before)) if time.monotonic() < deadline else 0
            while len(self.flying) < wanted:
                self._begin()
            for event in arrived(self.connections, _LOOK_SECONDS if wanted else 0.0):
                self._take(event)
            now = time.monotonic()
            for key in [key for key, flight in self.flying.items() if flight.at <= now or not wanted]:
                self._cancel(key)
            if any(connection.is_over for connection in self.connections):
                return

    def _begin(self) -> None:
        connection, stage = self.chance.choice(self.connections), self.chance.choice(_STAGES)
        if stage == HEADERS_ONLY:
            stream = connection.headers(STREAM)
        else:
            stream = connection.call(STREAM, self.chance.choice(_PROMPTS))
        now, later = time.monotonic(), self.chance.random() * _LONGEST_WAIT
        at = now + (later if stage == LATER else 2 * _LONGEST_WAIT if stage == AFTER_TOKENS else 0.0)
        self.flying[connection, stream] = Flight(stage, at, self.chance.randint(1, 20))

    def _take(self, event: Event) -> None:
        key = (event.connection, event.stream)
        flight = self.flying.get(key)
        if flight is None:
            return
        if event.message is None:
            del self.flying[key]
            self.ended[event.status] += 1
            return
        flight.messages -= 1
        if flight.stage == AFTER_TOKENS and flight.messages <= 0:
            self._cancel(key)

    def _cancel(self, key: tuple[Connection, int]) -> None:
        connection, stream = key
        connection.reset(stream)
        self.cancelled[self.flying.pop(key).stage] += 1


def ledger(admin: AdminClient) -> dict[str, int]:
    """What the server and its engine hold: all of it is 0 where nobody asks anything."""
    load = admin.load()
    model = load.models[0]
    return {
        "requests": load.requests, "request_bytes": load.request_bytes, "places": model.requests,
        "prompt_tokens": model.prompt_tokens, "waiting": model.waiting,
        "slots": model.num_slots - model.free_slots, "blocks": model.num_blocks - model.free_blocks,
    }  # fmt: skip


def measure_cancels(seconds: float, count: int) -> dict[str, Any]:
    """Up to `count` cancels, as many as there is time for."""
    with TimedServer(_PACE, _SLOTS, http=False) as server, ExitStack() as stack:
        connections = [stack.enter_context(Connection(server.address)) for _ in range(_CONNECTIONS)]
        return storm_over(server, Storm(connections), seconds, count)


def storm_over(server: TimedServer, storm: Storm, seconds: float, count: int) -> dict[str, Any]:
    """What a storm does to a server, and what is left of it."""
    end = time.monotonic() + seconds
    storm.blow(round(_WARM * count), time.monotonic() + _WARM * seconds)
    memory, generator = resident_bytes(server.process.pid), Generator()
    storm.blow(count - storm.cancelled.total(), end)
    figures, over = generator.figures(), time.monotonic()
    server.check()
    with server.admin() as admin, Client(server.address, retries=0) as client:
        client.generate("once", max_new_tokens=1, timeout=_IDLE_SECONDS)
        answered = time.monotonic() - over
        left, idle = _until_idle(admin, over)
    return {
        "cancels": storm.cancelled.total(), "wanted": count, "stages": dict(storm.cancelled),
        "ended_before": {str(status): number for status, number in storm.ended.items()},
        "connections_lost": sum(connection.is_over for connection in storm.connections),
        "next_answer_seconds": round(answered, 3), "idle_after_seconds": round(idle, 3), "left": left,
        "memory": growth(memory, resident_bytes(server.process.pid)), "generator": figures,
    }  # fmt: skip


def _until_idle(admin: AdminClient, since: float) -> tuple[dict[str, int], float]:
    """What the server holds once that is nothing, or after a long while; and after how many seconds."""
    while any((left := ledger(admin)).values()) and time.monotonic() - since < _IDLE_SECONDS:
        time.sleep(_LOOK_SECONDS)
    return left, time.monotonic() - since
