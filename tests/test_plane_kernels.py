"""The bit-plane FFN as launches of Triton, in the interpreter: what it gives is what torch gives."""

import pytest
from test_plane_ffn import ACTIVATIONS, check_same, mixed_shares, packed_by_hand, thresholds_of, tokens_of, weights_of

pytest.importorskip("triton")

from moesaic.kernels.plane_ffn import (  # noqa: E402
    PlaneResult,
    plane_ffn_torch,
    plane_scores,
)
from moesaic.kernels.planes.launches import plane_ffn_triton  # noqa: E402

# tokens, hidden, width
SHAPES = [(1, 64, 1), (1, 1, 5), (3, 37, 17), (2, 200, 33), (8, 130, 20), (10, 48, 16)]


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
def test_launches_are_torch_in_every_shape(bits: int, gated: bool, device: str) -> None:
    for number in range((bits + gated) % 3, len(SHAPES), 3):
        count, hidden, width = SHAPES[number]
        activation, refined = ACTIVATIONS[(number + bits) % 4], 8 if number % 2 else max(bits + 1, 6)
        weights = weights_of(hidden, width, gated, biased=number % 2 == 1, refined=refined)
        x = tokens_of(count, hidden)
        thresholds = thresholds_of(plane_scores(x, weights, bits, activation), mixed_shares(count))
        found = plane_ffn_triton(x.to(device), packed_by_hand(weights, bits), thresholds.to(device), activation)
        check_same(PlaneResult(*found), plane_ffn_torch(x, weights, thresholds, bits, activation))
