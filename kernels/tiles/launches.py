"""An FFN in tiles by a router, int8, in four launches of Triton: digits of the rows, the router, gate and up, down."""

import torch
from torch import Tensor

from ..expert_weights import ExpertWeights
from ..pages import LINE
from ..planes.asked import Asked
from ..planes.digits import digits_
from ..planes.down import Down, down_
from ..planes.scratch import Scratch
from ..rows import Rows, Target
from .route import Routing, Tiling, route_
from .up import up_

COUNT = 4


def takes(weights: ExpertWeights | None) -> bool:
    """Whether there are kernels for these weights: rows of int8 in whole lines."""
    return weights is not None and weights.dtype == torch.int8 and weights.hidden % LINE == 0


def tile_rows(
    target: Target,
    counts: Tensor,
    rows: Rows,
    weights: ExpertWeights,
    router: tuple[Tensor, Tensor],
    tile: int,
    activation: str,
    asked: Asked,
    full: int,
    scratch: Scratch,
    routing: Routing,
) -> None:
    """Fills the target with the FFN of at most 8 rows, and counts, int64 [2, rows]: neurons computed, and nothing.

    The first `full` rows are at the full tier: they take every tile, and no constant.
    """
    if weights.down_scale is None:
        raise TypeError("tiles of floating-point weights have no launches")
    tiling = Tiling(tile, weights.width)
    digits_(scratch, counts, rows, two=True)
    route_(scratch, routing, counts, router, asked, tiling, full)
    up_(scratch, routing, weights, tiling, len(target.y), activation)
    down_(target, scratch, Down(weights.down, weights.down_scale, weights.down_bias), asked, full)
