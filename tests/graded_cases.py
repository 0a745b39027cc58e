"""Operands that the tests of graded linears share."""

import itertools

import torch
from torch import Tensor

from moesaic.kernels.graded.bytes import PLANES
from moesaic.kernels.graded.layout import pack_graded
from moesaic.kernels.graded.worth import worth_of
from moesaic.kernels.graded_linear import GradedWeights

ALL_PLANES = sorted(
    planes for length in range(2, 9) for planes in itertools.product((1, 2, 4), repeat=length) if sum(planes) == 8
)
# tokens, inputs, outputs
SHAPES = [
    (1, 64, 128),
    (1, 1, 1),
    (3, 37, 17),
    (2, 5, 63),
    (9, 65, 65),
    (5, 200, 129),
    (4, 130, 193),
    (8, 33, 330),
    (40, 600, 96),
]


def weights_of(
    inputs: int, outputs: int, planes: tuple[int, ...] = PLANES, biased: bool = False, seed: int = 0
) -> GradedWeights:
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randint(-128, 128, (outputs, inputs), generator=draw, dtype=torch.int8)
    scale = torch.rand(outputs, generator=draw) / 500 + 0.001
    bias = torch.randn(outputs, generator=draw) if biased else None
    return GradedWeights(pack_graded(weight, planes), scale, worth_of(weight, scale, 1.0, planes), bias)


def tokens_of(count: int, inputs: int) -> Tensor:
    """Values of a wide range: some of each token are zero."""
    draw = torch.Generator().manual_seed(count + inputs)
    x = torch.randn(count, inputs, generator=draw) * torch.rand(count, inputs, generator=draw).square()
    return x * (torch.rand(count, inputs, generator=draw) > 0.1)


def thresholds_of(x: Tensor, weights: GradedWeights) -> Tensor:
    """fp32 [tokens], of all tiers side by side: full, what drops some of the levels, and what drops everything."""
    values = (x.abs().float().unsqueeze(1) * weights.worth.unsqueeze(1)).flatten(1)
    shares = torch.tensor([0.0, 0.3, 0.6, 0.9, 1.0])
    found = [float(values[t].quantile(shares[t % 5])) if t % 5 else 0.0 for t in range(len(x))]
    return torch.tensor(found)
