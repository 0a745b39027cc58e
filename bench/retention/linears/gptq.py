"""GPTQ (Frantar et al. 2023): a matrix rounded column by column, each error made up for by those still to come."""

import torch
from torch import Tensor

_DAMPING, _BLOCK = 0.01, 32
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
    scales = scale.repeat_interleave(columns, 1)[:, : len(h)]
    rounded = _sweep(w[:, order].T.contiguous(), upper, scales[:, order].T.contiguous(), bits)
    return rounded.T[:, order.argsort()]


def _sweep(w: Tensor, upper: Tensor, scales: Tensor, bits: int) -> Tensor:
    """w, scales: [inputs, outputs], so that a column lies side by side. upper: Cholesky of the inverse Hessian."""
    found = torch.empty_like(w)
    for begin in range(0, len(w), _BLOCK):
        end = min(begin + _BLOCK, len(w))
        block, errors = w[begin:end], torch.empty(end - begin, w.shape[1])
        for j in range(end - begin):
            row = upper[begin + j]
            found[begin + j] = nearest(block[j], scales[begin + j], bits)
            errors[j] = (block[j] - found[begin + j]) / row[begin + j]
            block[j + 1 :].addr_(row[begin + j + 1 : end], errors[j], alpha=-1)
        w[end:].addmm_(upper[begin:end, end:].T, errors, alpha=-1)
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
