"""The bit-plane FFN as launches of Triton, in the interpreter: what it gives is what torch gives."""

import pytest
import torch
from test_plane_ffn import ACTIVATIONS, check_same, mixed_shares, packed_by_hand, thresholds_of, tokens_of, weights_of
from torch import Tensor

pytest.importorskip("triton")

from moesaic.kernels.graded.digits import digits_of  # noqa: E402
from moesaic.kernels.plane_ffn import (  # noqa: E402
    PlaneResult,
    PlaneWeights,
    plane_ffn_torch,
    plane_neurons,
    plane_scores,
)
from moesaic.kernels.planes.launches import plane_ffn_triton  # noqa: E402

# tokens, hidden, width
SHAPES = [(1, 64, 1), (1, 1, 5), (3, 37, 17), (2, 200, 33), (8, 130, 20), (10, 48, 16)]


def judged(x: Tensor, weights: PlaneWeights, thresholds: Tensor, bits: int, activation: str) -> PlaneResult:
    """plane_ffn_torch with h in two digits on its way through down, in fp64."""
    found, plain = (
        plane_neurons(x, weights, bits, activation),
        plane_ffn_torch(x, weights, thresholds, bits, activation),
    )
    computed, refined = found.scores(weights.fit).chosen(thresholds)
    h = torch.where(computed, torch.where(refined, found.refined, found.rough), 0.0)
    digits = digits_of(h, torch.zeros(len(h)))
    sums = (digits.q.double() @ weights.down.double().T).float()
    y = sums * (digits.step * weights.down_scale) + (0.0 if weights.down_bias is None else weights.down_bias)
    return PlaneResult(y + found.token_scale * 0.0, plain.counts)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
def test_launches_are_torch_in_every_shape(bits: int, gated: bool, device: str) -> None:
    for number, (count, hidden, width) in enumerate(SHAPES):
        activation, refined = ACTIVATIONS[(number + bits) % 4], 8 if number % 2 else max(bits + 1, 6)
        weights = weights_of(hidden, width, gated, biased=number % 2 == 1, refined=refined)
        x = tokens_of(count, hidden)
        thresholds = thresholds_of(plane_scores(x, weights, bits, activation), mixed_shares(count))
        found = plane_ffn_triton(x.to(device), packed_by_hand(weights, bits), thresholds.to(device), activation)
        check_same(PlaneResult(*found), judged(x, weights, thresholds, bits, activation))
