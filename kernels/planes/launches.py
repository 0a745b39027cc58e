"""The bit-plane FFN in four launches of Triton: digits of the rows, what high bits foresee, low bits, rows of down."""

import torch
from torch import Tensor

from ..activations import ACTIVATIONS
from ..digit_triton import MOST_TOKENS
from ..rows import Rows, Target
from .asked import Asked
from .digits import digits_
from .down import Down, down_
from .layout import PackedPlanes
from .refine import refine_
from .score import score_
from .scratch import Scratch

COUNT = 4


def plane_rows(
    target: Target, counts: Tensor, rows: Rows, packed: PackedPlanes, asked: Asked, activation: str, scratch: Scratch
) -> None:
    """Fills the target with the FFN of at most 8 rows, and counts, int64 [2, rows]: neurons computed and refined.

    Rows that nobody told of are measured on the way.
    """
    digits_(scratch, counts, rows)
    score_(scratch, counts, packed, asked, activation)
    refine_(scratch, counts, packed, asked, activation)
    down_(target, scratch, Down(packed.down, packed.down_scale, packed.down_bias), asked)


def plane_ffn_triton(x: Tensor, packed: PackedPlanes, thresholds: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """(y, counts) of plane_ffn.PlaneResult for any number of tokens, eight at a time."""
    scratch, device = Scratch.of(x.device, packed.hidden, packed.width), x.device
    y, counts = x.new_empty(x.shape), torch.empty(2, len(x), dtype=torch.int64, device=device)
    tiers, zeros = torch.arange(MOST_TOKENS, dtype=torch.int32, device=device), torch.zeros(MOST_TOKENS, device=device)
    constants = torch.zeros(MOST_TOKENS, packed.hidden, device=device)
    for begin in range(0, len(x), MOST_TOKENS):
        part = slice(begin, min(begin + MOST_TOKENS, len(x)))
        n = part.stop - begin
        found = torch.empty(2, n, dtype=torch.int64, device=device)
        source = x[part].float().contiguous()
        asked = Asked(thresholds[part].contiguous(), constants[:n], tiers[:n], zeros[:n])
        plane_rows(Target(y[part]), found, Rows(source, zeros[:n, None]), packed, asked, activation, scratch)
        counts[:, part] = found
    return y, counts


def takes(packed: PackedPlanes | None, activation: str) -> bool:
    """Whether there are kernels for these weights."""
    return packed is not None and activation in ACTIVATIONS
