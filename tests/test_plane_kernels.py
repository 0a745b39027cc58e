"""The bit-plane FFN as launches of Triton, in the interpreter: what it gives is what torch gives."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_plane_ffn import (
    ACTIVATIONS,
    ALWAYS,
    NEVER,
    check_same,
    mixed_shares,
    packed_by_hand,
    thresholds_of,
    tokens_of,
    weights_of,
)
from torch import Tensor

pytest.importorskip("triton")

from moesaic.kernels.plane_ffn import PlaneResult, PlaneWeights, plane_ffn_torch, plane_scores  # noqa: E402
from moesaic.kernels.planes.launches import plane_ffn_triton  # noqa: E402
from moesaic.kernels.planes.layout import PackedPlanes  # noqa: E402

# tokens, hidden, width
SHAPES = [(1, 64, 1), (1, 1, 5), (3, 37, 17), (2, 200, 33), (8, 130, 20), (10, 48, 16)]


def on(device: str, packed: PackedPlanes) -> PackedPlanes:
    moved: Any = {name: each.to(device) for name, each in vars(packed).items() if isinstance(each, Tensor)}
    return replace(packed, **moved)


def launched(x: Tensor, weights: PlaneWeights, thresholds: Tensor, bits: int, activation: str, device: str) -> Any:
    """On that device, and back."""
    packed = on(device, packed_by_hand(weights, bits))
    y, counts = plane_ffn_triton(x.to(device), packed, thresholds.to(device), activation)
    return PlaneResult(y.cpu(), counts.cpu())


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
def test_launches_are_torch_in_every_shape(bits: int, gated: bool, device: str) -> None:
    number = (3 * gated + bits) % len(SHAPES)
    count, hidden, width = SHAPES[number]
    activation, refined = ACTIVATIONS[(number + bits) % 4], 8 if number % 2 else max(bits + 1, 6)
    weights = weights_of(hidden, width, gated, biased=number % 2 == 1, refined=refined)
    x = tokens_of(count, hidden)
    thresholds = thresholds_of(plane_scores(x, weights, bits, activation), mixed_shares(count))
    found = launched(x, weights, thresholds, bits, activation, device)
    check_same(found, plane_ffn_torch(x, weights, thresholds, bits, activation))


@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
def test_what_is_integers_has_the_bits_of_torch(gated: bool, device: str) -> None:
    """All neurons refined, and ReLU, which rounds nothing."""
    weights, x, every = weights_of(65, 40, gated, biased=True, refined=6), tokens_of(2, 65), torch.full((2, 2), ALWAYS)
    found = launched(x, weights, every, 4, "relu", device)
    assert found.y.equal(plane_ffn_torch(x, weights, every, 4, "relu").y) and (found.counts == 40).all()


def test_no_neuron_at_all_leaves_the_bias(device: str) -> None:
    weights, x = weights_of(37, 17, biased=True), tokens_of(2, 37)
    found = launched(x, weights, torch.full((2, 2), NEVER), 4, "silu", device)
    assert weights.down_bias is not None and found.y.equal(weights.down_bias.expand(2, 37)) and not found.counts.any()


def test_no_tokens_are_no_rows_of_a_launch(device: str) -> None:
    assert launched(tokens_of(0, 37), weights_of(37, 17), torch.empty(0, 2), 4, "silu", device).y.shape == (0, 37)


def test_a_row_has_the_same_bits_alone_and_beside_one_that_is_no_number(device: str) -> None:
    weights, x = weights_of(37, 50), tokens_of(3, 37)
    thresholds = thresholds_of(plane_scores(x, weights, 3, "silu"), mixed_shares(3))
    alone = torch.cat([launched(x[i : i + 1], weights, thresholds[i : i + 1], 3, "silu", device).y for i in range(3)])
    x[1, 5] = torch.inf
    together = launched(x, weights, thresholds, 3, "silu", device).y
    assert together[0].equal(alone[0]) and together[1].isnan().all() and together[2].equal(alone[2])


def test_the_largest_sums_of_down_are_exact(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One program for all of the neurons, which are more than one sum of 32 bits may hold."""
    monkeypatch.setattr("moesaic.kernels.planes.scratch._MOST_SPLITS", 1)
    drawn = weights_of(5, 600, gated=False)
    up, down = torch.full_like(drawn.up, 127), torch.full_like(drawn.down, -128)
    weights = replace(drawn, up=up, down=down, up_scale=torch.ones(600))
    x, every = torch.ones(1, 5), torch.full((1, 2), ALWAYS)
    found = launched(x, weights, every, 4, "relu", device)
    assert found.y.equal(plane_ffn_torch(x, weights, every, 4, "relu").y) and (found.counts == 600).all()
