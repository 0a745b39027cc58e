"""What levels are worth: the equation, and that what is worth more comes first."""

import pytest
import torch

from moesaic.kernels.graded.worth import falling, halves, level_errors, worth_of


def weight_of(outputs: int, inputs: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(-128, 128, (outputs, inputs), generator=draw, dtype=torch.int8)


def test_a_coarse_weight_is_the_middle_of_what_it_may_be() -> None:
    weight = torch.arange(-128, 128, dtype=torch.int8)
    for bits in (1, 2, 3, 4, 5, 6, 7):
        groups = weight.double().view(2**bits, -1)
        assert torch.equal(halves(weight, bits).double() / 2, groups.mean(1).repeat_interleave(2 ** (8 - bits)))
    assert not halves(weight, 0).any() and torch.equal(halves(weight, 8), 2 * weight.short())


def test_worth_is_the_error_that_a_byte_removes() -> None:
    weight, scale, sensitivity = weight_of(50, 6), torch.rand(50) + 0.1, torch.rand(50)
    worth = worth_of(weight, scale, sensitivity, (4, 2, 2))
    by_hand = [(halves(weight, bits).double() / 2 - weight).square() for bits in (0, 4, 6, 8)]
    errors = torch.stack([((sensitivity * scale.square())[:, None] * each).sum(0) for each in by_hand])
    errors = errors.mean(1)
    expected = ((errors[:-1] - errors[1:]) / (50 * torch.tensor([0.5, 0.25, 0.25]))).sqrt()
    torch.testing.assert_close(worth, expected.float())  # random weights fall by themselves


@pytest.mark.parametrize("planes", [(4, 2, 2), (1, 1, 2, 4), (1,) * 8], ids=str)
def test_worth_falls_from_level_to_level(planes: tuple[int, ...]) -> None:
    weight = (torch.randn(30, 200, generator=torch.Generator().manual_seed(0)) * 3).round().to(torch.int8)
    worth = worth_of(weight, torch.ones(30), 1.0, planes)
    assert worth.shape == (len(planes),) and (worth.diff(dim=0) <= 0).all() and (worth >= 0).all()


def test_a_step_that_removes_more_than_the_one_before_is_taken_with_it() -> None:
    errors = torch.tensor([10.0, 9.0, 3.0, 2.0])
    assert falling(errors, [1.0, 1.0, 1.0]).tolist() == [3.5, 3.5, 1.0]
    assert falling(errors, [1.0, 6.0, 1.0]).tolist() == [1.0, 1.0, 1.0]


def test_a_step_that_adds_error_is_worth_nothing_alone() -> None:
    assert falling(torch.tensor([0.0, 5.0, 0.0]), [1.0, 1.0]).tolist() == [0.0, 0.0]


def test_one_sensitivity_is_that_of_every_output() -> None:
    weight, scale = weight_of(20, 9), torch.rand(20)
    assert torch.equal(worth_of(weight, scale, 0.25), worth_of(weight, scale, torch.full((20,), 0.25)))


def test_the_last_level_leaves_no_error() -> None:
    errors = level_errors(weight_of(20, 9), torch.ones(20), (4, 2, 2))
    assert errors.shape == (4, 9) and not errors[-1].any() and (errors[:-1] > 0).all()


def test_a_scale_of_another_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scale must be \[20\] for this weight, it is \[19\]"):
        worth_of(weight_of(20, 9), torch.ones(19), 1.0)
