"""Rows of gate and up of the tiles that are read, in Triton, each once for all rows that want it.

A program of one warp takes a few neurons of a listed tile at a time, reads 16 bytes of a row of int8 weights a thread,
and multiplies them by both digits of every row of activations (dp4a). h of a row that does not want the tile is 0;
neurons that some row has a value for are listed for down.
"""

# Triton types arguments by what they are called with, and tuples grow in loops that it unrolls.
# mypy: disable-error-code="no-untyped-def,var-annotated,assignment,misc"

import torch

from ..activations import activate
from ..expert_weights import ExpertWeights
from ..jit import cdiv, constexpr, jit, tl
from ..planes.score import append
from ..planes.scratch import Scratch
from ..rows import power_of_two, size_of
from ..words import dot_bytes
from .route import Routing, Tiling

WORDS = 128  # of a row, 16 bytes a thread
_PROGRAMS = 1024
REGISTERS = 255  # of a thread: left to itself, the compiler spills a few


def neurons_of(rows: int, gated: bool) -> int:
    """Neurons that a program reads side by side: the sums of more rows take their registers."""
    return max(1, {1: 4, 2: 4, 4: 2, 8: 2}[rows] // (1 + gated))


@jit
def _up_tiles_kernel(
    lists, lengths, h, largest_h,  # as in Scratch
    tiles, wanted,  # as in Routing
    up, gate, up_scale, gate_scale, up_bias, gate_bias,  # words of [width, words], [width]
    digits, size,  # as in Scratch, digits as words
    words, tile, width, room, tokens,
    MATRICES: constexpr, HAS_UP_BIAS: constexpr, HAS_GATE_BIAS: constexpr, ACTIVATION: constexpr, ROWS: constexpr,
    NEURONS: constexpr, WORDS: constexpr, STRIDE: constexpr,
):  # fmt: skip
    each, r, word = tl.arange(0, NEURONS), tl.arange(0, ROWS), tl.arange(0, WORDS)
    step = tl.load(size + r, mask=r < tokens, other=float("nan"))[:, None]
    of_tile = tl.cdiv(tile, NEURONS)
    zero = tl.zeros([NEURONS, WORDS], tl.int32)
    for item in range(tl.program_id(0), tl.load(lengths) * of_tile, tl.num_programs(0)):
        listed = tl.load(tiles + item // of_tile)
        place = item % of_tile * NEURONS + each
        neuron = listed * tile + place
        there = (place < tile) & (neuron < width)
        begin = (tl.minimum(neuron, width - 1).to(tl.int64) * words)[:, None]
        sums = (zero,) * (2 * ROWS * MATRICES)
        for start in range(0, words, WORDS):
            k = start + word
            inside = (k < words)[None, :]
            read = (tl.load(up + begin + k[None, :], mask=inside, other=0),)
            if MATRICES == 2:
                read = (tl.load(gate + begin + k[None, :], mask=inside, other=0),) + read
            found = ()
            for digit in tl.static_range(2 * ROWS):
                of_row = tl.load(digits + digit * STRIDE + k)[None, :] + zero
                for m in tl.static_range(MATRICES):
                    found = found + (dot_bytes(read[m], of_row, sums[digit * MATRICES + m], True),)
            sums = found
        value = tl.zeros([ROWS, NEURONS], tl.float32)
        for m in tl.static_range(MATRICES):
            total = tl.zeros([ROWS, NEURONS], tl.int64)
            for row in tl.static_range(ROWS):
                high = tl.sum(sums[2 * row * MATRICES + m], 1).to(tl.int64)
                low = tl.sum(sums[(2 * row + 1) * MATRICES + m], 1).to(tl.int64)
                total = tl.where((r == row)[:, None], (256 * high + low)[None, :], total)
            if m < MATRICES - 1:
                z = _scaled(total, step, gate_scale, gate_bias, neuron, there, HAS_GATE_BIAS)
            else:
                z = _scaled(total, step, up_scale, up_bias, neuron, there, HAS_UP_BIAS)
            value = activate(z, ACTIVATION) if m == 0 else value * z
        rows = tl.load(wanted + listed)
        active = (((rows >> r) & 1) > 0)[:, None] & there[None, :] & (step == step)
        value = tl.where(active, value, 0.0)
        tl.store(h + r[:, None] * room + neuron[None, :], value, mask=(r < tokens)[:, None] & there[None, :])
        append(lists + room + 1, lengths + 1, neuron, tl.max((value != 0).to(tl.int32), 0) > 0)
        most = tl.max(size_of(value), 1).to(tl.int32, bitcast=True)
        tl.atomic_max(largest_h + r, most, mask=r < tokens, sem="relaxed")


@jit
def _scaled(total, step, scale, bias, neuron, there, HAS_BIAS: constexpr):
    """fp32 [rows, neurons], as digit_triton.scaled_blocks has it."""
    z = (2 * total).to(tl.float32) * (step * 0.5 * tl.load(scale + neuron, mask=there, other=0.0)[None, :])
    if HAS_BIAS:
        z += tl.load(bias + neuron, mask=there, other=0.0).to(tl.float32)[None, :]
    return z


def up_(scratch: Scratch, routing: Routing, weights: ExpertWeights, tiling: Tiling, rows: int, activation: str) -> None:
    """Fills h and largest of the listed tiles, and the list of their neurons."""
    gate, count = weights.gate, power_of_two(rows)
    neurons = neurons_of(count, gate is not None)
    first, scale = (weights.up, weights.up_scale) if gate is None else (gate, weights.gate_scale)
    biases = [weights.up_scale if each is None else each for each in (weights.up_bias, weights.gate_bias)]
    _up_tiles_kernel[min(_PROGRAMS, cdiv(tiling.size, neurons) * len(routing.tiles)),](
        scratch.lists, scratch.lengths, scratch.h, scratch.largest,
        routing.tiles, routing.wanted,
        weights.up.view(torch.int32), first.view(torch.int32), weights.up_scale, scale, *biases,
        scratch.digits.view(torch.int32), scratch.scale,
        weights.hidden // 4, tiling.size, tiling.neurons, scratch.h.shape[1], rows,
        MATRICES=2 - (gate is None), HAS_UP_BIAS=weights.up_bias is not None,
        HAS_GATE_BIAS=weights.gate_bias is not None, ACTIVATION=activation, ROWS=count, NEURONS=neurons, WORDS=WORDS,
        STRIDE=scratch.stride // 4,
        num_warps=1, num_stages=1, maxnreg=REGISTERS, enable_fp_fusion=False,
    )  # fmt: skip
