"""Ten times more requests than an engine can serve: what floors are worth, on a clock that is told.

A step takes as long as the bytes that it reads: those of attention and head always, those of the FFN by the share that
the largest of its rows asks, plus a little for each row and a little more for each token of a prompt.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ...engine.engine import Engine
from ...engine.request import FinishReason, Request, Row, Stopping
from ...engine.runner import Forward, Span
from ...engine.sampling import Sampling

_FIXED_SECONDS, _FFN_SECONDS, _ROW_SECONDS, _PROMPT_TOKEN_SECONDS = 0.002, 0.008, 0.0001, 0.0002
_LOWEST_POINT, _LOWEST_SHARE = 3.0, 0.25  # of the FFN's bytes at the lowest tier
_SLOTS, _PROMPT, _NEW = 8, 32, 32


@dataclass
class SimulatedRunner:
    """Tokens that mean nothing, in steps whose length is added to `clock`."""

    num_blocks: int = 256
    block_tokens: int = 16
    max_context: int = 256
    vocab_size: int = 16
    clock: float = 0.0
    points: dict[int, list[float]] = field(default_factory=dict)

    def forward(self, spans: Sequence[Span]) -> Forward:
        highest = min(span.operating_point for span in spans)  # rows of a step read what the most of them reads
        share = 1 - (1 - _LOWEST_SHARE) * highest / _LOWEST_POINT
        prompt = sum(len(span.token_ids) for span in spans if len(span.token_ids) > 1)
        self.clock += _FIXED_SECONDS + _FFN_SECONDS * share
        self.clock += _ROW_SECONDS * len(spans) + _PROMPT_TOKEN_SECONDS * prompt
        return Forward(torch.zeros(len(spans), self.vocab_size))

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copies nothing, as nothing is held."""


@dataclass(frozen=True)
class Overload:
    """times: of what the engine serves at full. within: seconds to the first token after which it has lost its use."""

    times: float = 10.0
    seconds: float = 60.0
    within: float = 1.0
    seed: int = 0


def capacity(plan: Overload) -> float:
    """Requests a second that the engine ends at the full tier when there are always some waiting."""
    runner = SimulatedRunner()
    engine = Engine(runner, num_slots=_SLOTS, now=lambda: runner.clock)
    for key in range(200):
        engine.add(_request(key, 0.0, None, plan, None))
    while engine.has_work:
        engine.step()
    return 200 / runner.clock


def served(plan: Overload, floor: float | None, rate: float) -> dict[str, float]:
    """Arrivals of a Poisson process for `seconds`; all may go down to `floor`, or nobody where it is None."""
    chance, runner = random.Random(plan.seed), SimulatedRunner()
    engine = Engine(runner, num_slots=_SLOTS, now=lambda: runner.clock)
    arrivals, at = [], 0.0
    while (at := at + chance.expovariate(rate)) < plan.seconds:
        arrivals.append(at)
    first: dict[int, float] = {}
    ended, good, key = 0, 0, 0
    while key < len(arrivals) or engine.has_work:
        if not engine.has_work:
            runner.clock = max(runner.clock, arrivals[key])
        while key < len(arrivals) and arrivals[key] <= runner.clock:
            engine.add(_request(key, arrivals[key], floor, plan, arrivals[key] + plan.within))
            key += 1
        if runner.clock > plan.seconds:
            break
        for row in engine.step():
            _note(row, runner.clock, first)
            if row.finish is FinishReason.LENGTH:
                ended += 1
                good += first[row.key] - arrivals[row.key] <= plan.within
    return {"arrived": key, "ended": ended, "good": good, "goodput_per_second": good / plan.seconds}


def _note(row: Row, now: float, first: dict[int, float]) -> None:
    if row.token_ids:
        first.setdefault(row.key, now)


def _request(key: int, arrived: float, floor: float | None, plan: Overload, deadline: float | None) -> Request:
    return Request(
        key, tuple((key + i) % 16 for i in range(_PROMPT)), Sampling(temperature=0.0),
        Stopping(_NEW, ignore_eos=True), arrived, floor=floor, deadline_seconds=deadline,
    )  # fmt: skip


def compared(plan: Overload = Overload()) -> dict[str, object]:
    """Fixed full tiers and floors beside each other, under the same arrivals."""
    rate = plan.times * capacity(plan)
    fixed, floors = served(plan, None, rate), served(plan, _LOWEST_POINT, rate)
    ratio = floors["goodput_per_second"] / fixed["goodput_per_second"]
    return {"arrivals_per_second": rate, "fixed": fixed, "floors": floors, "ratio": ratio}
