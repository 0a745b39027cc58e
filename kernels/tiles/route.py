"""The router of an FFN in tiles, in one launch of Triton: scores of every tile, and the list of those that are read.

    scores = s(second s(first n)),  s(z) = (z + sqrt(z^2 + 4)) / 2

as kernels/route.py has it, in fp32. A program owns a few rows of the first matrix; the last one to arrive multiplies by
the second, and lists the tiles whose score is not at or below the threshold of some row. Rows at the full tier, which
come first, take all of them.
"""

# Triton types arguments by what they are called with, and tuples grow in loops that it unrolls.
# mypy: disable-error-code="no-untyped-def,var-annotated,assignment,misc"

from typing import NamedTuple

import torch
from torch import Tensor

from ..digit_triton import MOST_TOKENS
from ..jit import cdiv, constexpr, jit, tl
from ..planes.asked import Asked, between
from ..planes.score import append
from ..planes.scratch import Scratch
from ..rows import power_of_two

OUTPUTS, INPUTS = 4, 512  # of the first matrix that a program reads side by side
TILES, WIDTH = 32, 128  # of the second
WARPS = 4


@jit
def _route_tiles_kernel(
    tiles, lengths, wanted, counts, routed, arrived,  # as in Scratch and Routing, int64 [2, rows]
    normed, first, second,  # fp32 [rows, stride], [width, hidden], [tiles, width]
    thresholds, tiers, shares,  # as in Asked
    stride, inputs, width, num_tiles, tile, neurons, last_tier, full, tokens,
    ROWS: constexpr, OUTPUTS: constexpr, INPUTS: constexpr, TILES: constexpr, WIDTH: constexpr,
):  # fmt: skip
    n = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    sums = (tl.zeros([OUTPUTS, INPUTS], tl.float32),) * ROWS
    for start in range(0, inputs, INPUTS):
        k = start + tl.arange(0, INPUTS)
        inside = (n < width)[:, None] & (k < inputs)[None, :]
        weight = tl.load(first + n.to(tl.int64)[:, None] * inputs + k[None, :], mask=inside, other=0.0).to(tl.float32)
        found = ()
        for r in tl.static_range(ROWS):
            value = tl.load(normed + r * stride + k, mask=(k < inputs) & (r < tokens), other=0.0)
            found = found + (sums[r] + weight * value[None, :],)
        sums = found
    for r in tl.static_range(ROWS):
        tl.store(routed + r * width + n, _squareplus(tl.sum(sums[r], 1)), mask=n < width)
    tl.debug_barrier()
    if tl.atomic_add(arrived, 1, sem="acq_rel") == tl.num_programs(0) - 1:
        tl.store(arrived, 0)
        r_all = tl.arange(0, ROWS)
        neurons_of = tl.zeros([ROWS], tl.int64)
        for start in range(0, num_tiles, TILES):
            e = start + tl.arange(0, TILES)
            rows = tl.zeros([TILES], tl.int32)
            size = tl.minimum(tile, neurons - e * tile)
            for r in tl.static_range(ROWS):
                score = _squareplus(_of_second(routed + r * width, second, e, width, num_tiles, TILES, WIDTH))
                tier, share = (
                    tl.load(tiers + r, mask=r < tokens, other=0),
                    tl.load(shares + r, mask=r < tokens, other=0.0),
                )
                limit = between(thresholds, tier, share, last_tier, 2, 0, r < tokens)
                active = (e < num_tiles) & (r < tokens) & (((score <= limit) == 0) | (r < full))
                rows = rows | (active.to(tl.int32) << r)
                neurons_of += tl.where(r_all == r, tl.sum(tl.where(active, size, 0), 0), 0).to(tl.int64)
            tl.store(wanted + e, rows, mask=e < num_tiles)
            append(tiles, lengths, e, rows > 0)
        tl.store(counts + r_all, neurons_of, mask=r_all < tokens)


@jit
def _of_second(routed, second, e, width, num_tiles, TILES: constexpr, WIDTH: constexpr):
    """fp32 [TILES] of one row."""
    total = tl.zeros([TILES, WIDTH], tl.float32)
    for start in range(0, width, WIDTH):
        k = start + tl.arange(0, WIDTH)
        inside = (e < num_tiles)[:, None] & (k < width)[None, :]
        weight = tl.load(second + e[:, None] * width + k[None, :], mask=inside, other=0.0).to(tl.float32)
        total += weight * tl.load(routed + k, mask=k < width, other=0.0, cache_modifier=".cg")[None, :]
    return tl.sum(total, 1)


@jit
def _squareplus(z):
    root = tl.sqrt_rn(z * z + 4.0)
    return tl.where(z < 0, 2.0 / (root - z), (z + root) * 0.5)  # NaN stays NaN


class Tiling(NamedTuple):
    """Neurons of a tile, and of all of them; the last tile is shorter where they do not divide."""

    size: int
    neurons: int


class Routing(NamedTuple):
    """Room for what the router finds. tiles: int32 [tiles]; wanted: int32 [tiles], a bit for each row; routed: fp32
    [rows, width of the router]; arrived: int32 [1], zero, and zero again after each launch.
    """

    tiles: Tensor
    wanted: Tensor
    routed: Tensor
    arrived: Tensor

    @classmethod
    def of(cls, device: torch.device, tiles: int, width: int) -> "Routing":
        def integers(count: int) -> Tensor:
            return torch.zeros(count, dtype=torch.int32, device=device)

        return cls(integers(tiles), integers(tiles), torch.zeros(MOST_TOKENS, width, device=device), integers(1))


def route_(
    scratch: Scratch,
    routing: Routing,
    counts: Tensor,
    router: tuple[Tensor, Tensor],
    asked: Asked,
    tiling: Tiling,
    full: int,
) -> None:
    """Lists tiles, and counts their neurons, int64 [2, rows]; the first `full` rows take all of them."""
    (first, second), (_, rows) = router, counts.shape
    width, inputs = first.shape
    _route_tiles_kernel[cdiv(width, OUTPUTS),](
        routing.tiles, scratch.lengths, routing.wanted, counts, routing.routed, routing.arrived,
        scratch.normed, first, second, asked.thresholds, asked.tiers, asked.shares,
        scratch.stride, inputs, width, len(second), tiling.size, tiling.neurons, len(asked.thresholds) - 1, full, rows,
        ROWS=power_of_two(rows), OUTPUTS=OUTPUTS, INPUTS=INPUTS, TILES=TILES, WIDTH=WIDTH,
        num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip
