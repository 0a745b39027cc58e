"""An FFN in tiles as launches of Triton, in the interpreter: what it gives is what its kernels give one by one."""

import pytest
import torch
from test_expert_ffn import operands

pytest.importorskip("triton")

from moesaic.kernels.expert_ffn import expert_ffn_torch  # noqa: E402
from moesaic.kernels.planes.asked import Asked  # noqa: E402
from moesaic.kernels.planes.scratch import Scratch  # noqa: E402
from moesaic.kernels.route import route_scores_torch  # noqa: E402
from moesaic.kernels.rows import Rows, Target  # noqa: E402
from moesaic.kernels.tiles.launches import takes, tile_rows  # noqa: E402
from moesaic.kernels.tiles.route import Routing  # noqa: E402


@pytest.mark.parametrize(("rows", "gated", "full"), [(1, True, 0), (1, False, 0), (3, True, 1), (5, False, 2)])
def test_launches_are_torch(rows: int, gated: bool, full: int, device: str) -> None:
    x, weights, _, tile, activation = operands((rows, 64, 30, 12), (torch.float32, torch.int8), gated=gated)
    router = torch.randn(16, 64), torch.randn(3, 16)
    scores = route_scores_torch(x, *router)
    table = torch.stack([scores.topk(2).values.mean(1), torch.zeros(rows)], 1)
    asked = Asked(table, torch.randn(rows, 64), torch.arange(rows, dtype=torch.int32), torch.zeros(rows))
    y, counts = torch.full_like(x, torch.nan), torch.full((2, rows), 7)
    scratch, routing = Scratch.of(x.device, 64, 30), Routing.of(x.device, 3, 16)
    for _ in range(2):  # what was told before is forgotten
        tile_rows(
            Target(y), counts, Rows(x, x[:, :1]), weights, router, tile, activation, asked, full, scratch, routing
        )
    active, constants = ~(scores <= table[:, :1]), asked.constants.clone()
    active[:full], constants[:full] = True, 0.0
    wanted = expert_ffn_torch(x, weights, active, tile, activation) + constants
    assert takes(weights) and (y - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert counts[0].equal(active.repeat_interleave(tile, 1)[:, :30].sum(1)) and not counts[1].any()
