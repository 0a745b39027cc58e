"""A pass that fails is tried again in halves, until only those fail who made it fail."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .runner import Runner, Span
from .sampler import Drawn
from .scheduler import Work


@dataclass(frozen=True, slots=True)
class Done:
    """What a pass gave to one sequence: logits [scored, vocab] after its last tokens; shares, if there are any."""

    work: Work
    logits: Tensor
    shares: Tensor | None


@dataclass(slots=True)
class Outcome:
    """What a step computed, what it could not, and whether memory was too little to do it in one pass.

    drawn: of a step that draws its tokens itself.
    """

    drawn: list[tuple[Work, Drawn]] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    failed: list[tuple[Work, Exception]] = field(default_factory=list)
    out_of_memory: bool = False


def apart(runner: Runner, work: Sequence[Work]) -> Outcome:
    """One pass over all of the work, or as many as it takes."""
    outcome = Outcome()
    _compute(runner, work, outcome)
    return outcome


def _compute(runner: Runner, work: Sequence[Work], outcome: Outcome) -> None:
    try:
        forward = runner.forward([span_of(each) for each in work])
    except Exception as error:
        outcome.out_of_memory |= isinstance(error, MemoryError | torch.OutOfMemoryError)
        if len(work) == 1:
            outcome.failed.append((work[0], error))
            return
        middle = len(work) // 2
        _compute(runner, work[:middle], outcome)
        _compute(runner, work[middle:], outcome)
        return
    shares = [None] * len(work) if forward.shares is None else forward.shares.unbind()
    logits = torch.split(forward.logits, [_scored(each) for each in work])
    outcome.done += [Done(*each) for each in zip(work, logits, shares, strict=True)]


def span_of(work: Work) -> Span:
    sequence = work.sequence
    begin = sequence.num_cached
    ids = sequence.ids[begin : begin + work.count]
    return Span(ids, begin, sequence.table, work.operating_point, _scored(work))


def _scored(work: Work) -> int:
    return work.count if work.sequence.scores_prompt else 1
