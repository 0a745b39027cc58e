"""What fails in a step is tried again in halves, until only those fail who made it fail."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .beam_tokens import likeliest
from .drawing import Drawing
from .paged_source import SourceSpan
from .runner import Runner, Span
from .sampler import NOT_FINITE, Drawn, draw
from .scheduler import Plan, Work
from .sequence import Sequence as Answer


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


def copied(runner: Runner, plan: Plan) -> tuple[list[tuple[Work, Exception]], list[Work]]:
    """Makes the copies of a plan, before anything is computed; whose blocks could not be made, and all other work."""
    if not plan.copies:
        return [], plan.work
    try:
        runner.copy(plan.copies)
    except Exception as error:
        targets = {target for _, target in plan.copies}
        lost = [each for each in plan.work if targets & set(each.sequence.table)]
        return [(each, error) for each in lost], [each for each in plan.work if each not in lost]
    return [], plan.work


def drawn_apart(ready: Sequence[tuple[Drawing, Done]]) -> list[Drawn]:
    """The next token of every row; an exception is an error of the row alone that raises it."""
    try:
        return _drawn(ready)
    except Exception as error:
        if len(ready) == 1:
            return [Drawn(-1, True, error=told(error))]
    middle = len(ready) // 2
    return [*drawn_apart(ready[:middle]), *drawn_apart(ready[middle:])]


def _drawn(ready: Sequence[tuple[Drawing, Done]]) -> list[Drawn]:
    if not ready:
        return []
    shares = [each.shares for _, each in ready if each.shares is not None]
    logits = torch.stack([each.logits[-1] for _, each in ready])
    return draw(logits, [drawing for drawing, _ in ready], torch.stack(shares) if shares else None)


def offered_apart(
    done: Sequence[Done],
) -> tuple[list[tuple[Answer, list[tuple[int, float]]]], list[tuple[Answer, str]]]:
    """What each beam offers, and whose logits give nothing to offer, with the reason."""
    if not done:
        return [], []
    beams = [each.work.sequence for each in done]
    counts = [beam.search.num_offers if beam.search else 0 for beam in beams]
    try:
        logits = torch.stack([each.logits[-1] for each in done])
        found = likeliest(logits, [beam.drawing for beam in beams], counts)
    except Exception as error:
        if len(done) == 1:
            return [], [(beams[0], told(error))]
        middle = len(done) // 2
        parts = offered_apart(done[:middle]), offered_apart(done[middle:])
        return [*parts[0][0], *parts[1][0]], [*parts[0][1], *parts[1][1]]
    pairs = list(zip(beams, found, strict=True))
    return [(beam, each) for beam, each in pairs if each is not None], [
        (beam, NOT_FINITE) for beam, each in pairs if each is None
    ]


def told(error: Exception) -> str:
    """An exception in the words of a row."""
    return f"{type(error).__name__}: {error}"


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
    source = SourceSpan(sequence.unread, len(sequence.source), sequence.source_table) if sequence.source else None
    return Span(ids, begin, sequence.table, work.operating_point, _scored(work), sequence.decodes, source)


def _scored(work: Work) -> int:
    return work.count if work.sequence.scores_prompt else 1
