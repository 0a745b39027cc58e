"""What the launches of an FFN that chooses neurons tell each other: room for the most rows and the widest layer."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..digit_triton import MOST_TOKENS
from ..jit import cdiv

SLICE = 128  # outputs of a program of down
TURN = 32  # the most neurons that a program of down reads before it asks whether there are more
_PROGRAMS = 1024  # that keep a GPU's memory busy
_MOST_SPLITS = 64
_BEYOND = 2048  # bytes of zeros behind a row of activations: the most that a turn of a loop reads too far


@dataclass(frozen=True)
class Scratch:
    """Launches of one stream may share it, layer after layer.

    digits: int8 [rows, hidden and more], or of two digits [rows, 2, ..]; scale: fp32 [rows], NaN where a row is no
    number; total: int32 [rows], of its digits; normed: fp32 [rows, ..].
    lists: int32 [2, width], neurons that are refined and neurons whose row of down is read, in any order; lengths:
    int32 [2]. Of tiles the first length is that of their list.
    fine: int32 [width], a bit for each row that refines it; dots: int32 [2, rows, width], of high bits; h: fp32 [rows,
    width], 0 where not computed; largest: int32 [rows], the bits of max |h|.
    pairs: int32 [splits, rows, ..], h in fixed point; places: int32 [splits, ..], where those rows of down begin, in
    lines. sums: int64 [rows, 4, words], zeros, and zeros again after each launch, as are the counters, int32 [slices].
    """

    digits: Tensor
    scale: Tensor
    total: Tensor
    normed: Tensor
    lists: Tensor
    lengths: Tensor
    fine: Tensor
    dots: Tensor
    h: Tensor
    largest: Tensor
    pairs: Tensor
    places: Tensor
    sums: Tensor
    counters: Tensor

    @classmethod
    def of(cls, device: torch.device, hidden: int, width: int) -> "Scratch":
        def integers(*shape: int) -> Tensor:
            return torch.empty(*shape, dtype=torch.int32, device=device)

        rows, slices = MOST_TOKENS, cdiv(hidden, SLICE)
        return cls(
            digits=torch.empty(2 * rows, stride_of(hidden), dtype=torch.int8, device=device),
            scale=torch.empty(rows, device=device),
            total=integers(rows),
            normed=torch.empty(rows, stride_of(hidden), device=device),
            lists=integers(2, width + 1),  # a pair may end behind the last one
            lengths=integers(2),
            fine=integers(width),
            dots=integers(2, rows, width),
            h=torch.empty(rows, width, device=device),
            largest=integers(rows),
            pairs=integers(splits_of(hidden, width), rows, share_of(hidden, width) // 2),
            places=integers(splits_of(hidden, width), share_of(hidden, width)),
            sums=torch.zeros(rows, 4, slices * SLICE // 4, dtype=torch.int64, device=device),
            counters=torch.zeros(slices, dtype=torch.int32, device=device),
        )

    @property
    def stride(self) -> int:
        return self.digits.shape[1]


def stride_of(hidden: int) -> int:
    """Bytes from one row's digits to the next."""
    return cdiv(hidden, 64) * 64 + _BEYOND


def splits_of(hidden: int, width: int) -> int:
    """Programs that share the listed rows of down of a slice."""
    return max(1, min(_MOST_SPLITS, cdiv(_PROGRAMS, cdiv(hidden, SLICE)), cdiv(width, TURN)))


def share_of(hidden: int, width: int) -> int:
    """The most neurons of a split, in whole turns."""
    return cdiv(cdiv(width, splits_of(hidden, width)), TURN) * TURN
