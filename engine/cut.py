"""Which tokens may be drawn after top-k, top-p, min-p and typical-p, found without a sort of the vocabulary.

Two ways, one answer. Here over the whole vocabulary: the place of a cut is found by halving the range of its value, a
fixed number of times, so that nothing depends on data and no number comes back to the host. On a CPU among candidates
(candidates.py), which are sorted. Of equals the lower id goes first, in both.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 64
_ROUNDS = 32  # as many as a float32 has bits

Keep = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a step's rows. table: float64 [rows, 5], a column for each; off are top_k inf, top_p 1, min_p 0.

    asked: the names of those that some row has. The others cost nothing.
    """

    table: Tensor
    asked: frozenset[str]

    @property
    def temperature(self) -> Tensor:
        return self.table[:, 0:1].float()

    @property
    def top_k(self) -> Tensor:
        return self.table[:, 1:2]

    @property
    def top_p(self) -> Tensor:
        return self.table[:, 2:3]

    @property
    def min_p(self) -> Tensor:
        return self.table[:, 3:4].float()

    @property
    def typical_p(self) -> Tensor:
        return self.table[:, 4:5]

    @property
    def typical_alone(self) -> Tensor:
        """[rows, 1] whether nothing but typical_p may leave a token out."""
        return torch.isinf(self.top_k) & (self.top_p == 1) & (self.min_p == 0)


def blocks(values: Tensor, filler: float) -> Tensor:
    """[rows, vocab] as [rows, blocks, BLOCK]; the last block is filled up where it must be, which takes a copy."""
    rows, vocab = values.shape
    if vocab % BLOCK:
        values = functional.pad(values, (0, -vocab % BLOCK), value=filler)
    return values.reshape(rows, -1, BLOCK)


def largest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest and their ids, in the order of ids; all where there are no more.

    They lie in the blocks of the `count` largest maxima: so most of the vocabulary is read once and never compared.
    """
    if count >= logits.shape[-1]:
        return logits, torch.arange(logits.shape[-1], device=logits.device).expand(logits.shape)
    cut = blocks(logits, -torch.inf)
    best = cut.amax(-1).topk(min(count, cut.shape[1]), sorted=False).indices
    row = torch.arange(len(cut), device=cut.device).unsqueeze(1)
    inside = cut.flatten(0, 1)[best + row * cut.shape[1]].flatten(1)
    ids = (best.unsqueeze(-1) * BLOCK + torch.arange(BLOCK, device=logits.device)).flatten(1)
    values, at = inside.topk(count, sorted=False)
    ids, order = ids.gather(1, at).sort()
    return values.gather(1, order), ids


def logs(logits: Tensor, best: Tensor, temperature: Tensor) -> Tensor:
    """(logits - best) / temperature: what the likeliest token has more of the log probability than each."""
    return (logits - best).div_(temperature)


def weights(logits: Tensor, best: Tensor, temperature: Tensor) -> Tensor:
    """exp of `logs`: the probabilities of a softmax before they are made to sum to 1.

    On a CPU by numpy, which takes half the time of torch, and a twentieth where the results are denormal.
    """
    log = logs(logits, best, temperature)
    if log.device.type != "cpu":
        return log.exp_()
    np.exp(log.numpy(), out=log.numpy())
    return log


def cut(logits: Tensor, best: Tensor, options: Options) -> Tensor:
    """What is drawn from, [rows, vocab]: `weights` with 0 where a token may not be drawn."""
    weight = weights(logits, best, options.temperature)
    weight *= likely(logits, weight, total(weight), options, _by_halving)
    if "typical_p" in options.asked:
        log = logs(logits, best, options.temperature)
        weight *= typical(log, weight, moments(weight, log.clone()), options, _by_halving)
    return weight


def likely(logits: Tensor, weight: Tensor, mass: Tensor, options: Options, fewest: Keep) -> Tensor:
    """top_k, then top_p of what it left, and min_p. mass: of all tokens, where top_k is off."""
    keep = (weight > 0) & (weight >= options.min_p)
    if "top_k" in options.asked:
        is_off = torch.isinf(options.top_k)
        in_k = is_off | fewest(logits, torch.ones_like(weight), options.top_k)
        mass = torch.where(is_off, mass, total(weight * in_k))
        keep &= in_k
    if "top_p" in options.asked:
        keep &= (options.top_p == 1) | fewest(logits, weight, mass * options.top_p)
    return keep


def typical(log: Tensor, weight: Tensor, of_all: tuple[Tensor, Tensor], options: Options, fewest: Keep) -> Tensor:
    """typical_p: those whose information is nearest to the entropy of what the others left. of_all: its `moments`."""
    mass, mean = of_all
    distance = (log.clamp(min=torch.finfo(log.dtype).min) - mean).abs().float()
    keep = fewest(-distance, weight, mass * options.typical_p)
    return (weight > 0) & ((options.typical_p == 1) | keep)


def moments(weight: Tensor, log: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of all weights and the mean of their logs by weight, [rows, 1] each. The logs are used up."""
    mass = total(weight)
    return mass, total(log.clamp_(min=torch.finfo(log.dtype).min).mul_(weight)) / mass


def _by_halving(scores: Tensor, weight: Tensor, goal: Tensor) -> Tensor:
    """The fewest of the largest scores whose weights reach the goal: those with less than it before them.

    The lowest score that is kept is the least one with less than the goal above it.
    """
    high = order_key(scores.amax(-1, keepdim=True))
    low = torch.full_like(high, _MINUS_INFINITY)
    for _ in range(_ROUNDS):
        middle = (low + high) >> 1
        above = total(torch.where(scores > _value(middle), weight, 0))
        low, high = torch.where(above < goal, low, middle), torch.where(above < goal, middle, high)
    last = _value(high)
    above, equal = scores > last, scores == last
    equals = torch.where(equal, weight, 0).double()
    before = total(torch.where(above, weight, 0)) + equals.cumsum(-1) - equals
    return above | (equal & (before < goal))


def total(weight: Tensor) -> Tensor:
    """Sums [rows, 1] in float64: of blocks in float32, which is as exact as what is summed."""
    return blocks(weight, 0.0).sum(-1).sum(-1, keepdim=True, dtype=torch.float64)


def order_key(values: Tensor) -> Tensor:
    """Whole numbers in the order of these float32."""
    bits = values.view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()


def _value(keys: Tensor) -> Tensor:
    bits = keys.int()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)


_MINUS_INFINITY = -2139095041  # the key of -inf
