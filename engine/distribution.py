"""The definition of what is drawn from, written to be read; the sampler is judged by it."""

import torch
from torch import Tensor

from .sampling import SMALLEST_TEMPERATURE, Sampling


def filtered_probabilities(logits: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Probabilities after temperature, top_k, top_p, min_p and typical_p, and the ids they belong to.

    logits: fp32 [vocab] -> ([kept], [kept]), largest first; of equally likely ids the lower one goes first. At least
    one id is kept.
    """
    count = min(sampling.top_k, logits.numel()) if sampling.top_k else logits.numel()
    shifted = logits - logits.max()  # so that a tiny temperature gives 0 and -inf, never a tie at inf
    values, ids = torch.sort(shifted / max(sampling.temperature, SMALLEST_TEMPERATURE), descending=True, stable=True)
    weights, ids = values[:count].exp().double(), ids[:count]  # the likeliest has weight 1
    before = weights.cumsum(-1) - weights  # of the more likely ids
    keep = ((before < sampling.top_p * weights.sum()) | (sampling.top_p == 1)) & (weights >= sampling.min_p)
    keep[0] = True
    weights, ids = _typical(weights[keep], ids[keep], sampling.typical_p)
    return (weights / weights.sum()).float(), ids


def _typical(weights: Tensor, ids: Tensor, mass: float) -> tuple[Tensor, Tensor]:
    """The fewest that hold this part of all weight, those first whose information is nearest to the entropy."""
    if mass == 1:
        return weights, ids
    weights, ids = weights[weights > 0], ids[weights > 0]
    information = -(weights / weights.sum()).log()
    entropy = (weights / weights.sum() * information).sum()
    order = (information - entropy).abs().float().argsort(stable=True)
    ordered = weights[order]
    keep = torch.zeros_like(ids, dtype=torch.bool)
    keep[order] = ordered.cumsum(-1) - ordered < mass * weights.sum()
    return weights[keep], ids[keep]
