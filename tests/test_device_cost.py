"""The cost model of products on a GPU: every choice that it makes, over a grid, and the constants behind it."""

import json
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch

from moesaic.bench.gpu.random_models import random_model
from moesaic.bench.published.figures import result
from moesaic.engine.runner import ModelRunner
from moesaic.kernels.device_cost import (
    FEW_ROWS,
    LAYOUTS,
    Device,
    FFNForm,
    Form,
    Layout,
    Product,
    bytes_per_instruction,
    choose_form,
    constants_file,
    dense_seconds,
    device_named,
    device_or_nearest,
    forms_of,
    product_seconds,
    read_device,
    shipped_devices,
    union_of,
    work_of,
    written_device,
)
from moesaic.models.device_step import DeviceStep
from moesaic.models.device_time import step_launches, step_seconds, step_work

DEVICES = tuple(shipped_devices().values())
SHAPES = ((768, 3072), (2048, 8192), (4096, 14336))
ROWS = tuple(range(1, 40)) + (63, 64, 65, 127, 128, 129, 255, 256, 512, 1024, 2047, 2048)
SHARES = tuple(i / 20 for i in range(4, 21))
BOTH: frozenset[Layout] = frozenset({"tiles", "planes"})
PLANES: frozenset[Layout] = frozenset({"planes"})
each_device = pytest.mark.parametrize("device", DEVICES, ids=lambda each: each.name)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def least(work: Product, device: Device, layouts: frozenset[Layout] = BOTH) -> float:
    return product_seconds(choose_form(work, device, layouts), work, device)


@each_device
@each_shape
def test_at_the_full_tier_nothing_is_slower_than_dense(device: Device, shape: tuple[int, int]) -> None:
    for rows in ROWS:
        work = Product(rows, *shape)
        assert choose_form(work, device, BOTH) in ("digits", "matrix")
        assert least(work, device) <= dense_seconds(work, device)


@each_device
@each_shape
def test_no_other_form_of_the_same_function_takes_less(device: Device, shape: tuple[int, int]) -> None:
    for rows, share in product(ROWS, SHARES):
        work = Product(rows, *shape, share)
        others = [product_seconds(form, work, device) for form in forms_of(work, BOTH)]
        assert least(work, device) == min(others)


@each_device
@each_shape
def test_more_bytes_take_no_less_time(device: Device, shape: tuple[int, int]) -> None:
    for rows in ROWS:
        taken = [least(Product(rows, *shape, share), device, PLANES) for share in SHARES]
        assert all(first <= then for first, then in pairwise(taken))
    wider = [least(Product(1, inputs, outputs), device) for inputs, outputs in SHAPES]
    assert wider == sorted(wider)


@each_device
@each_shape
@pytest.mark.parametrize("layouts", [BOTH, PLANES], ids=["tiles", "planes"])
@pytest.mark.parametrize("share", [0.2, 0.55, 1.0])
def test_a_row_more_takes_no_leap_and_no_less(
    share: float, layouts: frozenset[Layout], device: Device, shape: tuple[int, int]
) -> None:
    """A bucket has twice the rows of the one before, so that twice the time is the most that its first row takes."""
    taken = {rows: least(Product(rows, *shape, share), device, layouts) for rows in range(1, 300)}
    for rows in range(1, 299):
        if rows % FEW_ROWS:  # a group more has few rows, whose products take in more bytes an instruction
            assert taken[rows] <= taken[rows + 1] * (1 + 1e-9)
        assert taken[rows + 1] <= 2 * taken[rows]


@each_device
def test_a_little_less_of_the_bytes_takes_a_little_less(device: Device) -> None:
    taken = [least(Product(1, 4096, 14336, i / 1000), device, PLANES) for i in range(200, 1001)]
    assert max(then / first for first, then in pairwise(taken)) < 1.01


@each_device
def test_where_few_rows_of_a_large_weight_are_read_in_part_a_tier_is_faster_than_dense(device: Device) -> None:
    work = Product(1, 4096, 14336, 0.2)
    assert least(work, device) <= 0.5 * dense_seconds(work, device)
    assert least(replace(work, union=1.0), device) > least(work, device)


def test_forms_that_know_no_levels_never_stand_for_a_tier() -> None:
    whole, tier = (set(forms_of(Product(4, 768, 3072, share), set(LAYOUTS.values()))) for share in (1.0, 0.9))
    assert tier == {"planes", "unpacked"} and whole == set(LAYOUTS)


def test_a_form_refuses_rows_that_it_does_not_take() -> None:
    with pytest.raises(ValueError, match="digits takes 8 rows, not 9"):
        work_of("digits", Product(9, 64, 64))
    with pytest.raises(ValueError, match="weights as tiles have no product"):
        choose_form(Product(1, 64, 64, 0.5), DEVICES[0], frozenset({"tiles"}))


@pytest.mark.parametrize(
    ("form", "kernels"),
    [
        ("digits", ["digit tiles"]),
        ("planes", ["graded planes"]),
        (
            "neurons",
            ["neurons by high bits, gated", "neurons by high bits", "neurons by low bits, gated", "rows of down"],
        ),
        ("routed", ["tiles, gate and up", "rows of down"]),
    ],
)
def test_bytes_an_instruction_are_those_that_were_counted(form: Form | FFNForm, kernels: list[str]) -> None:
    """The least of them, over the tiles and bits that kernels are made for."""
    counted = [loop for loop in result("cost/kernels")["loops"] if loop["kernel"] in kernels]
    for rows in (1, 2, 4, 8):
        found = min(loop["bytes_per_instruction"] for loop in counted if loop["rows"] == rows)
        assert bytes_per_instruction(form, rows) == found


def test_what_rows_read_together_is_near_what_was_counted() -> None:
    graded = [each for each in result("cost/unions")["candidates"] if each["candidate"] == "graded inputs"]
    for union in (each for candidate in graded for each in candidate["unions"]):
        share = next(each["bytes"] for each in graded if union in each["unions"])
        assert union_of(share, union["rows"]) == pytest.approx(union["bytes"], abs=0.03)


def test_constants_that_were_measured_go_before_those_that_ship(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOESAIC_CACHE", str(tmp_path))
    shipped = device_named("NVIDIA H200")
    assert shipped == DEVICES[1] and not shipped.measured and device_named("NVIDIA T4") is None
    assert device_or_nearest("NVIDIA T4").bandwidth == DEVICES[0].bandwidth
    file = constants_file("NVIDIA H200")
    file.parent.mkdir()
    file.write_text(written_device(replace(shipped, bandwidth=4.3e12, measured=True)))
    found = device_named("NVIDIA H200")
    assert found is not None and (found.bandwidth, found.measured) == (4.3e12, True)


def test_constants_that_are_no_numbers_are_named() -> None:
    values = json.loads(written_device(DEVICES[0]))
    with pytest.raises(ValueError, match="T4: launch is 0, it must be a number above 0; run `moesaic tune` again"):
        read_device("T4", {**values, "launch": 0})


@pytest.mark.parametrize("kind", ["dense", "int8", "graded", "planes", "tiles"])
@pytest.mark.parametrize("family", ["toy-lines", "toy-opt"])
def test_launches_of_a_step_are_those_that_its_program_makes(family: str, kind: str) -> None:
    pytest.importorskip("triton")
    model = random_model(family, kind, "cpu", torch.float32)
    pages = ModelRunner(model, 4, 32, torch.float32, programmed=False).pages.layers
    program = DeviceStep(model, pages, 32).program
    for share in (1.0, 0.5) if model.spec.num_tiers > 1 else (1.0,):
        around, layer = step_launches(model.spec, share)
        assert program.num_launches(full=share == 1) == around + layer * len(model.layers)


def test_a_step_reads_less_at_a_lower_tier_and_takes_no_more() -> None:
    spec = random_model("toy", "graded", "cpu", torch.float32).spec
    whole, tier = (step_work(spec, 2, 128, share) for share in (1.0, 0.5))
    assert tier.bytes < whole.bytes and tier.launches > whole.launches
    assert all(step_seconds(spec, each, 2, 128, 0.5) <= step_seconds(spec, each, 2, 128, 0.9) for each in DEVICES)
