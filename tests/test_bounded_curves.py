"""Bounds for each token in place of one threshold: what they promise of every token, and the bytes that they read."""

import pytest
import torch
from torch import Tensor

from moesaic.bench.retention.linears.bounded import Bounded, Leaves, Quantity
from moesaic.bench.retention.linears.graded import Graded, GradedForm
from moesaic.bench.retention.linears.lab import Lab
from moesaic.bench.retention.linears.matrices import Matrix
from moesaic.models.checkpoint import open_checkpoint

QUANTITIES: list[Quantity] = ["error", "limit of the error", "share"]
IDS = torch.randint(3, 500, (4, 32), generator=torch.Generator().manual_seed(0))


def silent(what: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def lab() -> Lab:
    found = Lab(open_checkpoint("stories260k"), IDS[:2], IDS[2:], 0, silent)
    found.dense()
    return found


@pytest.fixture(scope="module")
def graded(lab: Lab) -> Graded:
    found = Graded(column=False)
    found.learn(lab.matrices, silent)
    found.set_threshold(lab.matrices, 1.0)
    return found


def leaves_of(graded: Graded, matrix: Matrix, quantity: Quantity) -> Leaves:
    return Leaves.of(matrix, graded.levels, graded.passes(matrix)[:, 0], quantity)


def off(graded: Graded, leaves: Leaves, x: Tensor, threshold: Tensor) -> Tensor:
    """The norm of the outputs' true error, [tokens]."""
    y = GradedForm.of(graded, leaves.matrix, leaves.passes(threshold))(x, x).y
    found: Tensor = torch.linalg.vector_norm(y - leaves.matrix.whole(x, x).y, dim=1)
    return found


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_each_token_leaves_as_much_as_its_bound_lets_it(lab: Lab, graded: Graded, quantity: Quantity) -> None:
    matrix = lab.matrices[3]
    leaves, x = leaves_of(graded, matrix, quantity), matrix.inputs.float()
    bound = 0.1 * leaves.left(x, torch.full((len(x),), 1e9))
    threshold = leaves.threshold(x, bound)
    assert (leaves.left(x, threshold) <= bound).all() and (leaves.left(x, 1.01 * threshold) > 0.5 * bound).all()
    assert (leaves.left(x, 2 * threshold) > bound).float().mean() > 0.9


def test_no_error_passes_its_limit_and_its_variance_is_what_is_foreseen(lab: Lab, graded: Graded) -> None:
    for matrix in lab.matrices[:4]:
        x = matrix.inputs.float()
        limit, error = (leaves_of(graded, matrix, quantity) for quantity in ("limit of the error", "error"))
        threshold = error.threshold(x, 0.01 * error.left(x, torch.full((len(x),), 1e9)))
        found = off(graded, error, x, threshold)
        assert (found <= 1.02 * limit.left(x, threshold)).all()  # products are made in bf16
        assert 0.5 < float(found.square().mean() / error.left(x, threshold).mean()) < 2


def test_nothing_left_is_all_bytes_and_all_left_is_none(lab: Lab, graded: Graded) -> None:
    matrix = lab.matrices[0]
    leaves, x = leaves_of(graded, matrix, "share"), matrix.inputs.float()
    nothing, everything = torch.zeros(len(x)), torch.full((len(x),), 1e9)
    assert leaves.bytes(x, everything).eq(matrix.scale_bytes).all()
    assert leaves.left(x, nothing).max() < 0.1 * matrix.levels.numel()  # inputs of 0 are never read
    whole = leaves.bytes(x, nothing) + leaves.left(x, nothing)
    assert torch.allclose(whole, torch.full_like(whole, float(matrix.whole_bytes)))


@pytest.mark.parametrize(
    "method",
    [Bounded("error"), Bounded("error", relative=False, everywhere=True), Bounded("error", at_most=2.0),
     Bounded("share")],
    ids=lambda method: method.name,
)  # fmt: skip
def test_bounds_read_what_they_are_given(lab: Lab, method: Bounded) -> None:
    method.learn(lab.matrices, silent)
    point = lab.point(method, "linears", 0.6)
    assert point.bytes_share == pytest.approx(0.6, abs=0.04) and point.parts["head"] == 1


def test_a_share_a_token_is_the_same_for_every_token(lab: Lab) -> None:
    method = Bounded("share")
    method.learn(lab.matrices, silent)
    method.aim("linears", 0.6)
    matrix = lab.matrices[2]
    read = method.form(matrix, matrix.inputs, matrix.stream)(matrix.inputs.float(), matrix.stream).bytes
    assert float(read.max() - read.min()) < 0.04 * matrix.whole_bytes
