"""Runs that never happened of a server whose speed changes from one second to the next, for tests of comparing."""

import heapq
import math
import random
from array import array
from collections.abc import Callable, Iterator
from typing import Any

from moesaic.bench.load.arrivals import Asked
from moesaic.bench.load.door import OK
from moesaic.bench.load.drive import Driven, Record
from moesaic.bench.load.figures import Limits, figures

PREFILL, STEP, SLOTS = 0.05, 0.01, 4  # seconds, seconds, requests at once
LIMITS = Limits(ttft=0.08, tpot=0.012)


def run(
    seed: int, seconds: float, rate: float = 0.0, users: int = 0, tied: float = 1.0, spread: float = 0.2,
    slower: float = 1.0,
) -> dict[str, Any]:  # fmt: skip
    """A report of Poisson arrivals at a rate, or of users who ask again at once.

    The logarithm of the speed has a standard deviation of `spread`, and is forgotten within `tied` seconds.
    """
    draw = random.Random(seed)
    speed = _course(draw, seconds, tied, spread)
    free, records = [0.0] * (users or SLOTS), list[Record]()
    for meant in _meant(draw, rate, seconds) if rate else _when_free(free, seconds):
        begun = max(meant, heapq.heappop(free))
        records.append(_answered(draw, meant, begun, slower * speed(begun)))
        heapq.heappush(free, records[-1].ended)
    end = max(seconds, *(each.ended for each in records))
    found = figures(Driven(records, end, {"was_the_limit": False}), LIMITS)
    return {"levels": [{"name": "a", "results": {"it": found}}]}


def _course(draw: random.Random, seconds: float, tied: float, spread: float) -> Callable[[float], float]:
    """How many times as long everything takes at a time: an autoregression, a tenth of a second a step."""
    kept, now, found = math.exp(-0.1 / tied), draw.gauss(0, spread), list[float]()
    for _ in range(int(20 * seconds)):
        now = kept * now + math.sqrt(1 - kept * kept) * draw.gauss(0, spread)
        found.append(math.exp(now))
    return lambda at: found[min(int(10 * at), len(found) - 1)]


def _meant(draw: random.Random, rate: float, seconds: float) -> Iterator[float]:
    at = draw.expovariate(rate)
    while at < seconds:
        yield at
        at += draw.expovariate(rate)


def _when_free(free: list[float], seconds: float) -> Iterator[float]:
    while free[0] < seconds:
        yield free[0]


def _answered(draw: random.Random, meant: float, begun: float, slower: float) -> Record:
    tokens, at = draw.randint(4, 12), begun + PREFILL * slower * draw.uniform(0.9, 1.1)
    arrivals = array("d", [at])
    for _ in range(tokens - 1):
        at += STEP * slower * draw.uniform(0.9, 1.1)
        arrivals.append(at)
    return Record(Asked(8, tokens, at=meant), meant, arrivals, tokens, 8, at, OK)
