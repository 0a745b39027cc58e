"""The layout of graded weights: one copy, from which every plane can be read and the plain rows come back."""

import pytest
import torch
from graded_cases import ALL_PLANES
from torch import Tensor

from moesaic.kernels.graded.bytes import (
    PLANES,
    GradedShape,
    graded_linear_bytes,
    int8_linear_bytes,
    level_bits,
)
from moesaic.kernels.graded.layout import BLOCK, pack_graded, plane_starts, runs


def weight_of(outputs: int, inputs: int) -> Tensor:
    draw = torch.Generator().manual_seed(outputs)
    return torch.randint(-128, 128, (outputs, inputs), generator=draw, dtype=torch.int8)


@pytest.mark.parametrize("outputs", [1, 31, 63, 64, 65, 128, 129, 192, 193, 576, 960])
@pytest.mark.parametrize("planes", [PLANES, (2, 2, 4), (1, 1, 2, 4), (1,) * 8], ids=str)
def test_what_is_packed_comes_back_exactly(outputs: int, planes: tuple[int, ...]) -> None:
    weight = weight_of(outputs, 7)
    packed = pack_graded(weight, planes)
    assert torch.equal(packed.unpacked(), weight)
    assert (packed.outputs, packed.inputs, packed.planes) == (outputs, 7, planes)


@pytest.mark.parametrize("planes", ALL_PLANES, ids=str)
def test_every_order_of_widths_is_a_layout(planes: tuple[int, ...]) -> None:
    weight = weight_of(200, 3)
    assert torch.equal(pack_graded(weight, planes).unpacked(), weight)


@pytest.mark.parametrize(
    "rows", [slice(0, 0), slice(5, 6), slice(120, 140), slice(128, 256), slice(250, 330), slice(-3, None), slice(9, 4)]
)
def test_a_run_of_outputs_is_unpacked_alone(rows: slice) -> None:
    weight = weight_of(330, 11)
    assert torch.equal(pack_graded(weight).unpacked(rows), weight[rows])


def test_a_row_begins_on_a_line_and_wastes_nothing_where_64_divides() -> None:
    for outputs in (64, 576, 960, 3008):
        packed = pack_graded(weight_of(outputs, 5))
        assert packed.rows.data_ptr() % 64 == 0 and packed.rows.shape == (5, outputs)
        assert packed.num_bytes == 5 * outputs
    assert pack_graded(weight_of(65, 5)).rows.shape == (5, 128)


def test_rows_of_many_lines_do_not_fall_into_the_same_sets_of_a_cache() -> None:
    for outputs in (1024, 2048, 3072, 16384):
        rows = pack_graded(weight_of(outputs, 5)).rows
        assert rows.stride(0) == outputs + 64 and len({row * rows.stride(0) // 64 % 64 for row in range(5)}) == 5


def test_reading_further_is_reading_a_longer_beginning_of_a_row() -> None:
    assert plane_starts(576, PLANES) == [0, 288, 432, 576]
    packed = pack_graded(weight_of(576, 5))
    packed.rows[:, 288:] = 0
    assert torch.equal(packed.unpacked() >> 4, weight_of(576, 5) >> 4)


def test_the_last_block_is_half_where_that_is_enough() -> None:
    assert [run.outputs * run.blocks for run in runs(BLOCK + 64)] == [128, 64]
    assert [run.outputs * run.blocks for run in runs(BLOCK + 65)] == [256]
    assert [run.outputs * run.blocks for run in runs(3)] == [64]


@pytest.mark.parametrize("planes", [(), (8,), (4, 4, 4), (4, 2), (3, 5), (4, 2, 0, 2), (2, 4, -1, 3)], ids=str)
def test_widths_that_no_layout_takes_are_refused(planes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"planes is .*, it must be widths of 1, 2 or 4 bits that add up to 8"):
        pack_graded(weight_of(4, 4), planes)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (4,), (1, 65537), (2, 3, 4)], ids=str)
def test_sizes_that_no_layout_takes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"weight must be \[outputs, 1 to 65536 inputs\], it is \["):
        pack_graded(torch.zeros(shape, dtype=torch.int8))


def test_floating_point_weights_are_refused() -> None:
    with pytest.raises(TypeError, match="weight must be int8, it is torch.float32"):
        pack_graded(torch.zeros(4, 4))


def test_a_step_through_outputs_is_refused() -> None:
    with pytest.raises(ValueError, match="every 2th output"):
        pack_graded(weight_of(9, 2)).unpacked(slice(0, 9, 2))


def test_all_bits_are_the_bytes_of_int8_and_what_they_are_worth() -> None:
    shape = GradedShape(576, 960, biased=True)
    assert graded_linear_bytes(shape, 8 * 576) == int8_linear_bytes(shape) + 4 * 3
    assert graded_linear_bytes(shape, 4 * 576) - graded_linear_bytes(shape, 0) == 576 * 960 / 2
    assert level_bits(PLANES) == (0, 4, 6, 8)


@pytest.mark.parametrize("outputs", [1, 64, 65, 128, 130, 200, 320])
@pytest.mark.parametrize("planes", [(4, 2, 2), (4, 4), (2, 1, 1, 4)])
def test_rows_are_looked_up_and_unpacked_by_input_as_they_were(outputs: int, planes: tuple[int, ...]) -> None:
    weight = torch.randint(-128, 128, (outputs, 40), dtype=torch.int8, generator=torch.Generator().manual_seed(outputs))
    packed, some = pack_graded(weight, planes), torch.randint(0, outputs, (7,))
    assert torch.equal(packed.at(some), weight[some])
    for level in range(1, len(planes) + 1):
        under = 8 - sum(planes[:level])
        assert torch.equal(packed.by_input(level), (weight >> under << under).T)


def test_planes_made_by_torch_and_by_cpp_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randint(-128, 128, (200, 33), dtype=torch.int8)
    native = pack_graded(weight)
    monkeypatch.setattr("moesaic.kernels.graded.layout.native", lambda: None)
    plain = pack_graded(weight)
    assert torch.equal(plain.rows, native.rows) and torch.equal(plain.by_input(2), native.by_input(2))
