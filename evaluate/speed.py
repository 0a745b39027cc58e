"""How fast models decode, beside each other: the same prompts, greedy, rounds taken in turn, by the runner that serves.

Figures of a machine at a time: they belong to reports, never to files that are hashed.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from ..engine.lockstep import Lockstep
from ..engine.runner import ModelRunner
from ..models.errors import TextError
from ..models.progress import Count
from ..models.threads import torch_threads
from ..models.transformer import Transformer

BATCHES = (1, 4)
ROUNDS = 3
_PROMPT_TOKENS, _NEW_TOKENS = 16, 32


@dataclass(frozen=True, slots=True)
class Contestant:
    """A model at an operating point."""

    model: Transformer
    operating_point: float = 0


@dataclass(frozen=True, slots=True)
class DecodeSpeed:
    """Tokens per second of decode steps, all rows of the batch together: the median and the best of the rounds."""

    batch: int
    tokens_per_second: float
    best_tokens_per_second: float


def decode_speeds(
    contestants: Mapping[str, Contestant],
    documents: Sequence[Sequence[int]],
    rounds: int = ROUNDS,
    progress: Count | None = None,
) -> dict[str, tuple[DecodeSpeed, ...]]:
    """The speed of each at each of BATCHES; all are warmed up once, and alternate within a round.

    Prompts are the first tokens of the documents. Raises TextError where they have none, or where the
    models' context leaves no step to time.
    """
    context = min(each.model.spec.max_context for each in contestants.values())
    length = min([_PROMPT_TOKENS, context // 2, *(len(ids) for ids in documents if ids)])
    num_new = min(_NEW_TOKENS, context - length)
    if not any(documents):
        raise TextError("speed: no document has a token to begin with; give longer text")
    if length < 1 or num_new < 2:
        raise TextError(f"speed: the models' context is {context} tokens, it must be 3 or more to time a step")
    prompts = [ids[:length] for ids in documents if ids] * max(BATCHES)
    models = {id(each.model): _rows(each.model, length + num_new) for each in contestants.values()}
    total, done = len(BATCHES) * (rounds + 1), 0
    rates: dict[tuple[str, int], list[float]] = {}
    for batch in BATCHES:
        for turn in range(rounds + 1):
            for name, each in contestants.items():
                rows, steps = models[id(each.model)], num_new if turn else 2
                seconds = _decode(rows, prompts[:batch], steps, each.operating_point)
                if turn:
                    rates.setdefault((name, batch), []).append(batch * (num_new - 1) / seconds)
            done += 1
            if progress:
                progress(done, total)
    return {
        name: tuple(DecodeSpeed(batch, median(rates[name, batch]), max(rates[name, batch])) for batch in BATCHES)
        for name in contestants
    }


def _rows(model: Transformer, context: int) -> Lockstep:
    rows = max(BATCHES)
    return Lockstep(ModelRunner(model, Lockstep.blocks(context, rows), context, model.norm.weight.dtype), rows, context)


def _decode(rows: Lockstep, prompts: Sequence[Sequence[int]], num_new: int, operating_point: float) -> float:
    """Times the steps after each prompt's first new token, on as many threads as torch has."""
    threads = torch.get_num_threads()
    with torch_threads(threads):
        rows.runner.use_threads(threads)
        last = [int(rows.prefill(row, ids, operating_point).logits.argmax()) for row, ids in enumerate(prompts)]
        start = len(prompts[0])
        began = time.perf_counter()
        for step in range(num_new - 1):
            last = rows.decode(last, start + step, operating_point).logits.argmax(-1).tolist()
        return time.perf_counter() - began
