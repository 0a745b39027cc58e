"""Many streams at a time: errors, tokens a second beside a bare echo, memory, and how long a token is on its way."""

import heapq
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ...proto import generation_pb2 as pb
from .connection import EXHAUSTED, OK, Connection, Event, arrived
from .measure import Generator, growth, milliseconds
from .processes import BareEcho, Started, TimedServer, cpu_seconds, resident_bytes
from .timed_engine import BLOCK_TOKENS, Pace, step_of

STREAM = "/moesaic.v1.Generation/GenerateStream"
_SETTLED = 0.25  # of the time, after which memory is looked at first
_OFFERED = (0.75, 0.5, 0.35, 0.25)  # of what the echo delivers, until that is kept up with
_KEPT_UP = 0.95
_TOKENS = 16  # of each stream in a step, where several come in a message
_OFFERED_STEPS = 0.25  # of the echo's messages
_LOOK_SECONDS, _BEGIN_SECONDS = 0.1, 20.0
_ASKED, _PROMPT = 200, 8  # tokens of a request, of its prompt


def asking(num_tokens: int, num_prompt: int = _PROMPT, text: str = "") -> bytes:
    """A request for so many tokens."""
    request = pb.GenerateRequest(stopping=pb.Stopping(max_new_tokens=num_tokens, ignore_eos=True))
    if text:
        request.text = text
    else:
        request.token_ids.ids.extend(300 + i % 100 for i in range(num_prompt))
    return request.SerializeToString()


@dataclass(slots=True)
class Stream:
    """One that is open. asked: tokens. last: when the last of them came."""

    asked: int
    got: int = 0
    last: float | None = None


@dataclass(slots=True)
class Streams:
    """So many streams on these connections, each begun anew when it has ended, until nobody pumps any more.

    One that was refused comes back when it was told to.
    """

    connections: Sequence[Connection]
    count: int
    asked: int = _ASKED
    step: float = 0.0  # of the grid by which the time of a token is known; 0 where there is none
    open: dict[tuple[Connection, int], Stream] = field(default_factory=dict)
    messages: int = 0
    tokens: int = 0
    ended: int = 0
    errors: int = 0
    statuses: Counter[int] = field(default_factory=Counter)  # of those that ended in an error
    refused: int = 0
    later: list[tuple[float, int, Connection]] = field(default_factory=list)  # a heap of those that were refused
    latencies: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def begin(self) -> None:
        """Opens all of them."""
        for i in range(self.count):
            self._open(self.connections[i % len(self.connections)])

    def pump(self, seconds: float) -> None:
        """Takes in for so long what comes."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for event in arrived(self.connections, min(left, _LOOK_SECONDS)):
                self.take(event)
            self.open_again()

    def settle(self, seconds: float) -> None:
        """Lets so long pass, and until all have begun, at most a while; counts from then."""
        end = time.monotonic() + _BEGIN_SECONDS
        self.pump(seconds)
        while any(not stream.got for stream in self.open.values()) and not self.ended and time.monotonic() < end:
            self.pump(_LOOK_SECONDS)
        self.forget()

    def open_again(self) -> None:
        """Opens those whose time has come, and counts those whose connection is over."""
        while self.later and self.later[0][0] <= time.monotonic():
            self._open(heapq.heappop(self.later)[2])
        self.errors += sum(self._lost(each) for each in self.connections if each.is_over)

    def take(self, event: Event) -> None:
        """Counts what came. Of one that has ended, another takes the place."""
        stream = self.open.get((event.connection, event.stream))
        if stream is None:
            return
        if event.message is not None:
            self._count(stream, pb.GenerateChunk.FromString(event.message), event.at)
            return
        del self.open[event.connection, event.stream]
        if event.status == EXHAUSTED:
            self.refused += 1
            heapq.heappush(self.later, (event.at + (event.pushback or 1.0), event.stream, event.connection))
            return
        self.ended += 1
        if event.status != OK or stream.got != stream.asked:
            self.errors += 1
            self.statuses[event.status] += 1
        self._open(event.connection)

    def forget(self) -> None:
        """Counts from now on."""
        self.messages = self.tokens = self.ended = self.errors = self.refused = 0
        self.latencies, self.gaps = [], []

    def end(self, since: float) -> None:
        """Counts the longest pause that is not over yet as if it ended now; without any token, from then."""
        now = time.monotonic()
        begun = [stream.last for stream in self.open.values() if stream.last is not None]
        longest = now - min(begun, default=now if self.gaps else since)
        if longest > max(self.gaps, default=0.0):
            self.gaps.append(longest)

    def _open(self, connection: Connection) -> None:
        if not connection.is_over:
            self.open[connection, connection.call(STREAM, asking(self.asked))] = Stream(self.asked)

    def _count(self, stream: Stream, chunk: pb.GenerateChunk, at: float) -> None:
        stream.got += len(chunk.token_ids)
        self.messages += 1
        self.tokens += len(chunk.token_ids)
        if stream.last is not None:
            self.gaps.append(at - stream.last)
        stream.last = at
        if self.step and chunk.token_ids:
            self.latencies.append(at - step_of(chunk.token_ids[-1], at, self.step))

    def _lost(self, connection: Connection) -> int:
        """Streams of a connection that is over."""
        gone = [key for key in self.open if key[0] is connection]
        for key in gone:
            del self.open[key]
        return len(gone)


def measure_streams(seconds: float, count: int, few: int, sustained: float = 0.0) -> dict[str, Any]:
    """All of it: `count` streams as fast as they come, `few` at the pace of a model, each for so many seconds.

    sustained: for how long once more at the pace that brought most, where that is not 0.
    """
    with BareEcho() as echo:
        bare = rates(echo, count, seconds)
    rate = bare["messages_per_second"]
    tries = _one_token(rate, count, seconds / 3)
    one = max(tries, key=lambda each: float(each["messages_per_second"]))
    long = {}
    if sustained:
        with TimedServer(_pace(count, one["offered"] * rate), count) as server:
            long = {"sustained": {"seconds": sustained, **rates(server, count, sustained)}}
    with TimedServer(_pace(count, _OFFERED_STEPS * rate, _TOKENS), count) as server:
        several = rates(server, count, seconds, _ASKED * _TOKENS)
    one["ratio"] = round(one["messages_per_second"] / rate, 3)
    several |= {"ratio": round(several["tokens_per_second"] / rate, 3), "tokens_a_step": _TOKENS}
    return {
        "streams": count, "seconds": seconds, "echo": bare, "one_token": one, "one_token_tries": tries,
        "coalesced": several, **long, "latency": _latencies(seconds / 2, few),
    }  # fmt: skip


def _pace(count: int, rows: float, tokens: int = 1) -> Pace:
    """So many rows a second of `count` streams, with room for all of them, and prompts that are read at once."""
    blocks = count * (2 + _ASKED * tokens // BLOCK_TOKENS)
    return Pace(count / rows, tokens, prompt=count * _PROMPT, blocks=blocks)


def _one_token(rate: float, count: int, seconds: float) -> list[dict[str, Any]]:
    """One token a step at less and less of the echo's rate, until each goes in a message of its own."""
    tries: list[dict[str, Any]] = []
    for offered in _OFFERED:
        with TimedServer(_pace(count, offered * rate), count) as server:
            tries.append({"offered": offered, **rates(server, count, seconds)})
        if tries[-1]["messages_per_second"] >= _KEPT_UP * offered * rate:
            break
    return tries


def _latencies(seconds: float, count: int, step: float = 0.02) -> dict[str, Any]:
    """How long tokens are on their way from the end of their step, of the server and of the echo."""
    found: dict[str, Any] = {"streams": count, "step_ms": 1e3 * step}
    with BareEcho(step) as echo:
        found["echo_ms"] = _latency(echo, count, seconds, step)
    with TimedServer(Pace(step), count) as server:
        found["server_ms"] = _latency(server, count, seconds, step)
    return found


def _latency(server: Started, count: int, seconds: float, step: float) -> dict[str, float]:
    with ExitStack() as stack:
        streams = Streams([stack.enter_context(Connection(server.address))], count, step=step)
        streams.begin()
        streams.settle(min(1.0, seconds))
        streams.pump(seconds)
    server.check()
    return milliseconds(streams.latencies, 0.5, 0.99)


def rates(server: Started, count: int, seconds: float, asked: int = _ASKED) -> dict[str, Any]:
    """Messages and tokens a second of so many streams, after a quarter of the time; memory from there to the end."""
    with ExitStack() as stack:
        connections = [stack.enter_context(Connection(server.address)) for _ in range(-(-count // 90))]
        streams = Streams(connections, count, asked)
        streams.begin()
        streams.settle(_SETTLED * seconds)
        process = server.process.pid
        memory, used, generator = resident_bytes(process), cpu_seconds(process), Generator()
        streams.pump((1 - _SETTLED) * seconds)
        took = time.monotonic() - generator.began
        used, after = cpu_seconds(process) - used, resident_bytes(process)
    server.check()
    return {
        "errors": streams.errors,
        "statuses": {str(status): count for status, count in streams.statuses.items()},
        "last_words": server.last_words() if streams.errors else "",
        "requests": streams.ended,
        "messages_per_second": round(streams.messages / took, 1),
        "tokens_per_second": round(streams.tokens / took, 1),
        "busy_share": round(used / took, 3),
        "microseconds_of_processor_a_message": round(1e6 * used / max(1, streams.messages), 1),
        "memory": growth(memory, after),
        "generator": generator.figures(),
    }
