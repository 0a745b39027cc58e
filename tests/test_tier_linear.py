"""The graded linear that learns: the numbers of the kernel, and gradients for the inputs alone that are read."""


import pytest
import torch
from graded_cases import tokens_of

from moesaic.compress.distill.tier_linear import TierLinear
from moesaic.compress.quantize.int8 import quantize_rows
from moesaic.kernels.graded.digits import graded_levels
from moesaic.kernels.graded.layout import pack_graded
from moesaic.kernels.graded.worth import worth_of
from moesaic.kernels.graded_linear import GradedWeights, graded_linear_torch
from moesaic.models.linear import Linear

TOKENS, INPUTS, OUTPUTS = 12, 40, 24


def linear_of(threshold: float, bias: bool = True) -> tuple[TierLinear, GradedWeights]:
    """A linear at a tier, and the same weights as the runtime has them."""
    linear, draw = Linear(INPUTS, OUTPUTS, bias), torch.Generator().manual_seed(3)
    for parameter in linear.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw)
    weight, scale = quantize_rows(linear.weight.data)
    worth = worth_of(weight, scale, 1.0)
    learner = TierLinear.of(linear, worth, threshold)
    learner.at_tier = True
    return learner, GradedWeights(pack_graded(weight), scale, worth, linear.bias)


def limit_at(share: float) -> float:
    """The threshold that so many of the inputs stay below at the first level."""
    worth = linear_of(0.0)[0].worth
    assert worth is not None
    return float((tokens_of(TOKENS, INPUTS).abs() * worth[0]).quantile(share))


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.95])
@pytest.mark.parametrize("bias", [True, False])
def test_at_a_tier_the_product_is_that_of_the_kernel(share: float, bias: bool) -> None:
    threshold, x = limit_at(share) if share else 0.0, tokens_of(TOKENS, INPUTS)
    learner, weights = linear_of(threshold, bias)
    wanted = graded_linear_torch(x, weights, torch.full((TOKENS,), threshold)).y
    torch.testing.assert_close(learner(x), wanted, rtol=1e-4, atol=1e-3)


def test_some_inputs_stand_at_each_level_where_it_is_tested() -> None:
    learner, x = linear_of(limit_at(0.2))[0], tokens_of(TOKENS, INPUTS)
    assert learner.worth is not None
    levels = graded_levels(x, learner.worth, torch.full((TOKENS,), learner.threshold))
    assert set(levels.unique().tolist()) == {0, 1, 2, 3}
