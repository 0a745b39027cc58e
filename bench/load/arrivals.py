"""When requests leave, how long they are and at which tier: an open loop that no answer holds up, or users who wait.

Arrivals are those of a process of rate 1, stretched by the inverse of the rate that was asked for up to then (Lewis and
Shedler 1979), so that one line serves steady rates and ramps alike.
"""

import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. at: seconds after the beginning at which it leaves; None where it leaves when a user is free."""

    prompt_tokens: int
    new_tokens: int
    tier: str = ""
    at: float | None = None


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of prompt and answer, each from .. to, all equally likely; or one of `pairs`, where there are any."""

    prompt: tuple[int, int] = (128, 128)
    new: tuple[int, int] = (64, 64)
    pairs: tuple[tuple[int, int], ...] = ()

    def drawn(self, draw: random.Random) -> tuple[int, int]:
        """Tokens of one prompt and its answer."""
        return draw.choice(self.pairs) if self.pairs else (draw.randint(*self.prompt), draw.randint(*self.new))


@dataclass(frozen=True, slots=True)
class Level:
    """One steady measurement. Open where `requests` carry their times; else `users` take them one after another."""

    name: str
    requests: tuple[Asked, ...]
    seconds: float
    users: int = 0


def arrivals(begin: float, end: float, seconds: float, burstiness: float, draw: random.Random) -> Iterator[float]:
    """Times at which requests leave, at a rate that goes from `begin` to `end` a second within so many seconds.

    The gaps of the stretched time are gamma with mean 1 and shape `burstiness`: 1 makes it a Poisson process, less
    makes bursts, much more a steady beat.
    """
    slope, passed = (end - begin) / seconds, 0.0
    while True:
        passed += draw.gammavariate(burstiness, 1 / burstiness)
        at = _time_of(passed, begin, slope)
        if not at < seconds:
            return
        yield at


def _time_of(count: float, begin: float, slope: float) -> float:
    """When that many requests have been asked for: begin * t + slope * t^2 / 2 = count; infinity where it never is."""
    square = begin * begin + 2 * slope * count
    if square < 0:
        return math.inf
    speed = begin + math.sqrt(square)
    return 2 * count / speed if speed > 0 else math.inf


def ramp(
    begin: float, end: float, seconds: float, burstiness: float, lengths: Lengths, tiers: Mapping[str, float], seed: int
) -> Level:
    """Requests at a rate that changes evenly, or stays."""
    draw = random.Random(seed)
    times = list(arrivals(begin, end, seconds, burstiness, draw))
    name = f"rate {begin:g}/s" if begin == end else f"rate {begin:g} to {end:g}/s"
    return Level(name, tuple(_drawn(at, lengths, tiers, draw) for at in times), seconds)


def closed(users: int, seconds: float, lengths: Lengths, tiers: Mapping[str, float], seed: int) -> Level:
    """So many users, each of whom asks again when the answer is there; they never run out of requests."""
    draw = random.Random(seed)
    cycle = tuple(_drawn(None, lengths, tiers, draw) for _ in range(1024))
    return Level(f"users {users}", cycle, seconds, users)


def _drawn(at: float | None, lengths: Lengths, tiers: Mapping[str, float], draw: random.Random) -> Asked:
    prompt, new = lengths.drawn(draw)
    return Asked(prompt, new, tier_of(tiers, draw), at)


def tier_of(tiers: Mapping[str, float], draw: random.Random) -> str:
    """One of them by its weight; "" where none is asked for."""
    return draw.choices([*tiers], [*tiers.values()])[0] if tiers else ""
