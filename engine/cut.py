"""Which tokens may be drawn after top-k, top-p, min-p and typical-p, found without a sort of the vocabulary.

Two ways, one answer. Among candidates, where they hold all that is kept: sorted. Over the whole vocabulary (`cut`): the
place of a cut is found by halving the range of its value, a fixed number of times, so that nothing depends on data and
no number comes back to the host. Of equals the lower id goes first, in both.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 64
NUM_CANDIDATES = 64  # that are looked at first
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
    def by_likelihood(self) -> bool:
        """Whether some row keeps the likeliest tokens only; typical_p alone may leave those out."""
        return self.asked != {"typical_p"}

    def of(self, rows: list[int]) -> "Options":
        """The same of some rows."""
        return Options(self.table[rows], self.asked)


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


def weights(logits: Tensor, best: Tensor, temperature: Tensor) -> Tensor:
    """exp((logits - best) / temperature): the probabilities of a softmax before they are made to sum to 1."""
    return (logits - best).div_(temperature).exp_()


def cut(logits: Tensor, best: Tensor, options: Options) -> Tensor:
    """What is drawn from, [rows, vocab]: `weights` with 0 where a token may not be drawn."""
    weight = weights(logits, best, options.temperature)
    keep = _likely(logits, weight, total(weight), options, _by_halving)
    return weight * _typical(logits, weight * keep, options, _by_halving)


def cut_few(logits: Tensor, best: Tensor, mass: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """The same among the likeliest: weights and ids [rows, candidates], and [rows] whether nothing else is kept.

    mass: of all tokens, [rows, 1].
    """
    values, ids = largest(logits, NUM_CANDIDATES)
    weight = weights(values, best, options.temperature)
    keep = _likely(values, weight, mass, options, _by_sorting)
    last = values.amin(-1, keepdim=True)  # equals of the last one may lie outside
    is_whole = values.shape == logits.shape
    inside = torch.isinf(options.top_k) | (options.top_k < NUM_CANDIDATES)
    known = inside.squeeze(-1) & ~(keep & (values == last)).any(-1)
    return weight * _typical(values, weight * keep, options, _by_sorting), ids, known | is_whole


def cut_reachable(logits: Tensor, best: Tensor, mass: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """The same among all that may be kept of one row [1, vocab]: weights and ids [1, candidates]. For a CPU."""
    values, ids = _from(logits, _least(logits, best, mass, options))
    weight = weights(values, best, options.temperature)
    keep = _likely(values, weight, mass, options, _by_sorting)
    return weight * _typical(values, weight * keep, options, _by_sorting), ids


def _least(logits: Tensor, best: Tensor, mass: Tensor, options: Options) -> float:
    """A logit below which nothing is kept, as near as it can be told without a sort.

    top_p: all below it together, at most the vocabulary times the largest of them, are not worth what may be left out.
    """
    temperature, top_k, top_p, min_p, _ = options.table[0].tolist()
    if top_k < logits.shape[-1]:
        return float(logits.topk(int(top_k), sorted=False).values.min())
    share = max((1 - top_p) * float(mass) / logits.shape[-1], min_p)
    highest = float(best)
    rounding = 1e-3 * temperature + 1e-6 * abs(highest)
    return highest + temperature * math.log(share) - rounding if share > 0 else -math.inf


def _from(logits: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """The logits of a row [1, vocab] from `least` on, and their ids, [1, found] each; most blocks hold none."""
    parts = blocks(logits, -torch.inf)[0]
    some = (parts.amax(-1) >= least).nonzero().squeeze(1)
    inside = parts[some]
    block, place = (inside >= least).nonzero().unbind(1)
    return inside[block, place].unsqueeze(0), (some[block] * BLOCK + place).unsqueeze(0)


def _likely(logits: Tensor, weight: Tensor, mass: Tensor, options: Options, fewest: Keep) -> Tensor:
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


def _typical(logits: Tensor, weight: Tensor, options: Options, fewest: Keep) -> Tensor:
    """typical_p: those whose information is nearest to the entropy of what the others left."""
    if "typical_p" not in options.asked:
        return weight > 0
    mass = total(weight)
    log = weight.log().clamp(min=torch.finfo(weight.dtype).min)
    mean = total(weight * log) / mass
    distance = (log - mean).abs().float()
    keep = fewest(-distance, weight, mass * options.typical_p)
    return (weight > 0) & ((options.typical_p == 1) | keep)


def _by_sorting(scores: Tensor, weight: Tensor, goal: Tensor) -> Tensor:
    """The fewest of the largest scores whose weights reach the goal: those with less than it before them."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    ordered = weight.gather(1, order).double()
    keep = ordered.cumsum(-1) - ordered < goal
    return torch.zeros_like(keep).scatter(1, order, keep)


def _by_halving(scores: Tensor, weight: Tensor, goal: Tensor) -> Tensor:
    """The same. The lowest score that is kept is the least one with less than the goal above it."""
    high = _key(scores.amax(-1, keepdim=True))
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


def _key(values: Tensor) -> Tensor:
    """Whole numbers in the order of these float32."""
    bits = values.view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()


def _value(keys: Tensor) -> Tensor:
    bits = keys.int()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32)


_MINUS_INFINITY = -2139095041  # the key of -inf
