"""What a cut may keep, found on a CPU before anything is sorted: a few tokens of a vocabulary.

A lower bound for the weights that are kept is told by two numbers of each block of the vocabulary, its sum and its
largest weight; a second one, that lies near, by counting those few above the first. Only what is left is sorted.
"""

import numpy as np
import torch
from torch import Tensor

from .cut import BLOCK, Options, blocks, likely, logs, moments, order_key, typical, weights

_HALVINGS = 5
_GUESSED = 2  # of a block's tokens below the bound, in tokens at it
_BINS, _BINS_OF_ONE = 192, 8  # of the log of a weight
_MARGIN = 1e-5  # for the rounding of sums and of exp
_EDGE = 1e-3  # for that of a log
_SMALLEST = 2.0**-149  # above 0, of float32
_PLACE = 0xFFFFFFFF


def cut_candidates(logits: Tensor, best: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Weights and ids [rows, candidates], in the order of ids, of what is drawn from; the weight of all others is 0."""
    weight = weights(logits, best, options.temperature)
    sums, alone = blocks(weight, 0.0).sum(-1), options.typical_alone
    of_all: tuple[Tensor, Tensor | None] = sums.sum(-1, keepdim=True, dtype=torch.float64), None
    if bool(alone.any()):
        of_all = moments(weight, logs(logits, best, options.temperature))
    ids, exists = _reached(weight, sums, of_all, options)
    few, weight = logits.gather(1, ids), weight.gather(1, ids) * exists
    weight *= likely(few, weight, of_all[0], options, _by_sorting)
    if "typical_p" in options.asked:
        log = logs(few, best, options.temperature)
        mass, mean = moments(weight, log.clone())
        if of_all[1] is not None:
            mass, mean = torch.where(alone, of_all[0], mass), torch.where(alone, of_all[1], mean)
        weight *= typical(log, weight, (mass, mean), options, _by_sorting)
    return weight, ids


def _reached(
    weight: Tensor, sums: Tensor, of_all: tuple[Tensor, Tensor | None], options: Options
) -> tuple[Tensor, Tensor]:
    """Ids of all that may be kept and whether there is one, [rows, most of a row]; a row's own come first."""
    parts = blocks(weight, 0.0)
    highest = parts.amax(-1)
    least, share = _least(weight, highest, options), _share(options)
    if share is None:
        row, ids, _ = _from(parts, highest, least)
        return _as_table(row, ids, len(weight))
    mass, mean = of_all
    for most in (_GUESSED, BLOCK - 1):
        log = _least_log(sums, highest, (1 - share - _MARGIN) * mass, most)
        row, ids, few = _from(parts, highest, least.maximum(_lowered(log, mean, options)))
        near, reached = _least_log_of_few(row, few, (share + _MARGIN) * mass)
        if bool((reached | torch.isinf(log)).all()):
            break
    rest = few >= _lowered(near, mean, options)[row, 0]
    return _as_table(row[rest], ids[rest], len(weight))


def _from(parts: Tensor, highest: Tensor, least: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, id and weight of all that weigh so much, in the order of rows and ids. parts: [rows, blocks, BLOCK]."""
    row, block = (highest >= least).nonzero().unbind(1)
    inside = parts.flatten(0, 1).index_select(0, row * parts.shape[1] + block)
    at = torch.from_numpy(np.flatnonzero((inside >= least[row]).numpy()))
    found = at // BLOCK
    return row[found], block[found] * BLOCK + at % BLOCK, inside.view(-1)[at]


def _as_table(row: Tensor, ids: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """[rows, most of a row], filled up with 0, and what is no filling. row: ascending, of each id."""
    counts = torch.bincount(row, minlength=num_rows)
    column = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
    table = ids.new_zeros(num_rows, max(1, int(counts.max())))
    table[row, column] = ids
    return table, torch.arange(table.shape[1]) < counts.unsqueeze(1)


# --- weights below which nothing is kept, [rows, 1] ----------------------------------------------------------------


def _least(weight: Tensor, highest: Tensor, options: Options) -> Tensor:
    """By min_p and top_k, above 0. highest: of each block, [rows, blocks]."""
    least = options.min_p.clamp(min=_SMALLEST)
    if "top_k" in options.asked:
        least = least.maximum(_least_of_top_k(weight, highest, options.top_k))
    return least * (1 - _MARGIN)


def _least_of_top_k(weight: Tensor, highest: Tensor, top_k: Tensor) -> Tensor:
    """The k-th largest of the blocks, so that k tokens have that weight or more; else the k-th largest of all."""
    is_few = top_k <= highest.shape[1]
    count = torch.where(is_few, top_k, 1).long()
    least = torch.where(is_few, highest.topk(int(count.max())).values.gather(1, count - 1), 0)
    vocab = weight.shape[1]
    for row in (~is_few & (top_k < vocab)).squeeze(1).nonzero().flatten().tolist():
        place = vocab - int(top_k[row])
        least[row] = float(np.partition(weight[row].numpy(), place)[place])
    return least


def _share(options: Options) -> Tensor | None:
    """The part of all probability outside of which nothing is kept; None where no row has one.

    Beside top_k, top_p is of what that leaves, which must all be seen: so it is 1.
    """
    if not options.asked & {"top_p", "typical_p"}:
        return None
    share = torch.where(options.typical_alone, options.typical_p, options.top_p)
    return torch.where(torch.isinf(options.top_k), share, 1)


def _lowered(log: Tensor, mean: Tensor | None, options: Options) -> Tensor:
    """Bounds as they are for typical_p, too: all above twice the mean log are nearer to it than those below."""
    if mean is not None:
        log = torch.where(options.typical_alone, log.minimum(2 * mean.float()), log)
    return (log - _EDGE).exp()


def _least_log(sums: Tensor, highest: Tensor, spared: Tensor, most: int) -> Tensor:
    """The log of a weight with no more than `spared` below it, -inf where there is none. sums, highest: of each block.

    Below a weight is all of a block whose largest one is; of others what is beside the largest, and no more than so
    many times the weight: BLOCK - 1 is sure, fewer a guess.
    """
    spared = spared.float().clamp(min=0)
    others = (sums - highest).clamp_(min=0)
    low = (spared / (sums.shape[1] * BLOCK)).log()
    high = torch.zeros_like(low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        weight = middle.exp()
        below = torch.where(highest < weight, sums, others.minimum(most * weight))
        fits = below.sum(-1, keepdim=True) <= spared
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return low


def _least_log_of_few(row: Tensor, weight: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """The log of a weight that reaches the goal with all above it, by bins, and whether all together reach it.

    -inf where the last bin is needed.
    """
    bins = (weight.log() * -_BINS_OF_ONE).long().clamp_(max=_BINS - 1)
    sums = torch.bincount(row * _BINS + bins, weight.double(), len(goal) * _BINS).view(-1, _BINS).cumsum(1)
    first = (sums < goal).sum(1, keepdim=True)
    return torch.where(first < _BINS - 1, (first + 1) / -_BINS_OF_ONE, -torch.inf), sums[:, -1:] >= goal


# --- what is kept --------------------------------------------------------------------------------------------------


def _by_sorting(scores: Tensor, weight: Tensor, goal: Tensor) -> Tensor:
    """The fewest of the largest scores whose weights reach the goal: those with less than it before them."""
    order = _falling(scores)
    ordered = weight.gather(1, order).double()
    keep = ordered.cumsum(-1) - ordered < goal
    return torch.zeros_like(keep).scatter(1, order, keep)


def _falling(scores: Tensor) -> Tensor:
    """The places of scores [rows, n], the largest first; of equals the first. By numpy's sort, twenty times torch's."""
    keys = (-order_key(scores + 0.0) << 32) + torch.arange(scores.shape[1])  # + 0.0: there is no -0
    return torch.from_numpy(np.sort(keys.numpy(), axis=-1)) & _PLACE
