"""From logits to the next token: greedy rows together, sampled rows each with its own generator."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .sampling import Sampling

_SMALLEST_TEMPERATURE = 1e-30  # below it fp32 has no use for the number


def filtered_probabilities(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Probabilities after temperature, top_k, top_p and min_p, largest first, and the ids they belong to.

    logits: fp32 [vocab] -> ([kept], [kept]); the most likely id is always kept.
    """
    count = min(sampling.top_k, logits.numel()) if sampling.top_k else logits.numel()
    shifted = logits - logits.max()  # so that a tiny temperature gives 0 and -inf, never a tie at inf
    values, ids = torch.topk(shifted / max(sampling.temperature, _SMALLEST_TEMPERATURE), count)
    probabilities = torch.softmax(values, dim=-1)
    before = probabilities.cumsum(-1) - probabilities  # mass of the more likely ids
    keep = (before < sampling.top_p) & (probabilities >= sampling.min_p * probabilities[0])
    keep[0] = True
    kept = probabilities[keep]
    return kept / kept.sum(), ids[keep]


def draw_one(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """One id by inverse transform: the first whose cumulative probability passes a uniform draw."""
    probabilities, ids = filtered_probabilities(logits.float().cpu(), sampling)
    uniform = torch.rand((), generator=generator, dtype=torch.float64)
    index = torch.searchsorted(probabilities.double().cumsum(-1), uniform, right=True)
    return int(ids[min(int(index), ids.numel() - 1)])


class Drawing:
    def __init__(self, request: Any, choice: int, fallback_seed: int) -> None:
        self.sampling, self.generator = request.sampling, torch.Generator()
        seed = request.sampling.seed
        self.generator.manual_seed(fallback_seed if seed is None else seed & (2**63 - 1))

    def take(self, token: int) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Drawn:
    token: int
    finite: bool


def draw(logits: Tensor, drawings: Sequence[Drawing]) -> list[Drawn]:
    greedy = logits.argmax(-1).tolist()
    finite = torch.isfinite(logits).all(-1).tolist()
    return [
        Drawn(-1, False)
        if not ok
        else Drawn(best if each.sampling.temperature == 0 else draw_one(row, each.sampling, each.generator), True)
        for row, each, best, ok in zip(logits, drawings, greedy, finite, strict=True)
    ]
