"""A mixture of experts in launches of Triton: a decode step's rows in six, five of floats; and any number of tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..digit_matrix import digits_matrix
from ..digit_triton import MOST_TOKENS
from ..instructions import Choice
from ..jit import cdiv
from ..planes.digits import digits_
from ..planes.scratch import Scratch
from ..rows import Rows, Target, measured
from .assigned import NOBODY, Assigned, assign
from .choose import choose_, logits_of
from .combine import combine_, combine_few_
from .few import few_
from .many import many_
from .operands import Operands, Sources
from .weights import MixtureWeights

_FEW = 2  # pairs of a block of few.py, at the most
_BLOCKS = (16, 32, 64)  # and of many.py: with more, threads spill registers
_INT8_BLOCKS = _BLOCKS[:2]  # which have the sums of two digits


@dataclass(frozen=True)
class Room:
    """What the launches of a decode step tell each other; layers of one shape may share it.

    h: fp32 [pairs, width]; largest: int32 [pairs], the bits of max |h|, or NOBODY; made: fp32 [pairs, hidden].
    """

    logits: Tensor
    arrived: Tensor
    h: Tensor
    largest: Tensor
    made: Tensor

    @classmethod
    def of(cls, weights: MixtureWeights, active: int) -> "Room":
        device, pairs = weights.up.device, MOST_TOKENS * active
        h, made = (torch.empty(pairs, width, device=device) for width in (weights.width, weights.hidden))
        largest = torch.empty(pairs, dtype=torch.int32, device=device)
        return cls(*logits_of(device, weights.experts), h, largest, made)


def num_launches(weights: MixtureWeights) -> int:
    """Of a decode step."""
    return 6 if weights.is_int8 else 5


def mixture_rows(
    target: Target,
    counts: Tensor,
    rows: Rows,
    weights: MixtureWeights,
    matrix: Tensor,
    choice: Choice,
    activation: str,
    asked: tuple[Tensor, Tensor],
    full: int,
    scratch: Scratch,
    room: Room,
) -> None:
    """Fills the target with the mixture of at most 8 rows, and counts, int64 [2, rows]: neurons computed, and nothing.

    matrix: [experts, hidden], which scores them; asked: tiers int32 and shares fp32 [rows]. The first `full` rows are
    at the full tier.
    """
    tokens = len(target.y)
    digits_(scratch, counts, rows, two=True)
    assigned = Assigned.room(target.y.device, tokens, choice.active, min(tokens, _FEW))
    pairs = tokens * choice.active
    h, largest, made = room.h[:pairs], room.largest[:pairs], room.made[:pairs]
    choose_(assigned, largest, counts, room.logits, room.arrived, scratch.normed, matrix, choice, asked, full)
    up, down = Operands.up(weights), Operands.down(weights)
    if weights.is_int8:
        sources = Sources(scratch.digits, scratch.scale, choice.active, 2 * scratch.stride, scratch.stride)
        few_(h, largest, assigned, up, sources, activation)
        few_(made, None, assigned, down, _as_digits(h, largest), "")
    else:
        sources = Sources(scratch.normed, scratch.scale, choice.active, scratch.stride)
        few_(h, None, assigned, up, sources, activation)
        few_(made, None, assigned, down, Sources(h, scratch.scale, 1, h.stride(0)), "")
    combine_few_(target, made, assigned)


def mixture_ffn_triton(x: Tensor, weights: MixtureWeights, places: Tensor, parts: Tensor, activation: str) -> Tensor:
    """mixture_ffn.mixture_ffn, without host synchronization. The caller has checked the operands."""
    (tokens, hidden), most = x.shape, places.shape[1]
    assigned = assign(places, parts, weights.experts, block_rows(tokens, most, weights))
    multiply = few_ if assigned.rows <= _FEW else many_
    up, down, pairs = Operands.up(weights), Operands.down(weights), tokens * most
    y, made = x.new_empty(tokens, hidden), x.new_empty(pairs, hidden)
    if weights.is_int8:
        told = measured(x)
        digits = digits_matrix(told, cdiv(hidden, 16) * 16)
        h = x.new_empty(pairs, weights.width, dtype=torch.float32)
        largest = (parts.flatten() == 0).to(torch.int32) * NOBODY
        multiply(h, largest, assigned, up, Sources.split(digits, told.largest, most), activation)
        multiply(made, None, assigned, down, _as_digits(h, largest), "")
    else:
        x, h = x.contiguous(), x.new_empty(pairs, weights.width)
        multiply(h, None, assigned, up, Sources(x, assigned.parts, most, hidden), activation)
        multiply(made, None, assigned, down, Sources(h, assigned.parts, 1, weights.width), "")
    combine_(y, made, assigned)
    return y


def block_rows(tokens: int, most: int, weights: MixtureWeights) -> int:
    """Pairs of a block: about as many as an expert has, by tensor cores where they are more than a few."""
    pairs, blocks = tokens * most / weights.experts, _INT8_BLOCKS if weights.is_int8 else _BLOCKS
    if tokens == 1 or pairs <= 2 * _FEW:
        return min(tokens, _FEW)
    return next((rows for rows in blocks if pairs <= rows), blocks[-1])


def _as_digits(h: Tensor, largest: Tensor) -> Sources:
    sizes = largest.view(torch.float32)
    digits = digits_matrix(Rows(h, sizes.unsqueeze(1)), cdiv(h.shape[1], 16) * 16)
    return Sources.split(digits, sizes, 1)
