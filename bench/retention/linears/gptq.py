"""GPTQ (Frantar et al. 2023): a matrix rounded column by column, each error made up for by those still to come."""

import torch
from torch import Tensor

_DAMPING, _BLOCK = 0.01, 128
_SHRINKS = tuple(1 - 0.02 * i for i in range(11))  # of a group's largest value, for its scale: 1 to 0.8


def gptq(weight: Tensor, hessian: Tensor, bits: int, columns: int, ordered: bool = True) -> Tensor:
    """The rounded weight in fp32 [outputs, inputs], symmetric, an fp16 scale for each `columns` of a row.

    hessian: the sum of x x' over calibration text, [inputs, inputs]. ordered: columns with the largest entry of its
    diagonal first, with the scales of the groups as they stand (static groups), so that nothing is gathered.
    """
    w, h = weight.float().clone(), hessian.float().clone()
    scale = group_scales(w, bits, columns, h.diagonal())
    dead = h.diagonal() == 0
    h.diagonal()[dead] = 1
    w[:, dead] = 0
    order = h.diagonal().argsort(descending=True) if ordered else torch.arange(len(h))
    h = h[order][:, order]
    h.diagonal().add_(_DAMPING * h.diagonal().mean())
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(h)), upper=True)
    rounded = _sweep(w[:, order], upper, scale.repeat_interleave(columns, 1)[:, : len(h)][:, order], bits)
    return rounded[:, order.argsort()]


def _sweep(w: Tensor, upper: Tensor, scale: Tensor, bits: int) -> Tensor:
    """upper: the Cholesky factor of the inverse Hessian."""
    found = torch.empty_like(w)
    for begin in range(0, w.shape[1], _BLOCK):
        end = min(begin + _BLOCK, w.shape[1])
        block, errors = w[:, begin:end].T.contiguous(), torch.empty(end - begin, len(w))
        for j in range(end - begin):
            column = begin + j
            q = nearest(block[j], scale[:, column], bits)
            found[:, column] = q
            errors[j] = (block[j] - q) / upper[column, column]
            block[j + 1 :].addr_(upper[column, column + 1 : end], errors[j], alpha=-1)
        w[:, end:] -= errors.T @ upper[begin:end, end:]
    return found


def nearest(values: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The nearest of scale times -2^(bits - 1) .. 2^(bits - 1) - 1."""
    most = 2 ** (bits - 1)
    found: Tensor = (values / torch.where(scale > 0, scale, 1)).round().clamp(-most, most - 1) * scale
    return found


def group_scales(w: Tensor, bits: int, columns: int, importance: Tensor) -> Tensor:
    """fp16 scales in fp32 [outputs, groups]: of a few shrunk ones of a group, the one that errs least, columns weighted
    by importance [inputs].
    """
    pad = -w.shape[1] % columns
    groups = torch.nn.functional.pad(w, (0, pad)).view(len(w), -1, columns)
    weight = torch.nn.functional.pad(importance, (0, pad)).view(-1, columns)
    widest = groups.abs().amax(-1) / (2 ** (bits - 1) - 1)
    best: Tensor = widest
    least = torch.full_like(widest, float("inf"))
    for part in _SHRINKS:
        scale = (part * widest).half().float()
        error = ((nearest(groups, scale.unsqueeze(-1), bits) - groups).square() * weight).sum(-1)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best
