"""A decode step of a GPU, in the interpreter: what it gives is what a CPU gives, with few launches."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_gpu import Recorder, fake_gpu
from family_cases import CASES, Case
from torch import Tensor

pytest.importorskip("triton")

from moesaic.bench.gpu.random_models import SHAPES, random_model  # noqa: E402
from moesaic.engine.form import Form, Forms, FormSize  # noqa: E402
from moesaic.engine.runner import ModelRunner, Span  # noqa: E402
from moesaic.kernels.mixture_ffn import mixture_ffn  # noqa: E402
from moesaic.models.checkpoint import load_transformer, open_checkpoint  # noqa: E402
from moesaic.models.device_step import DeviceStep  # noqa: E402
from moesaic.models.ffn.mixture import MixtureFFN  # noqa: E402
from moesaic.models.ffn.planes import PlaneFFN  # noqa: E402
from moesaic.models.transformer import Transformer  # noqa: E402
from moesaic.models.walk import NoProgramError  # noqa: E402

OPT = {
    "model_type": "opt", "hidden_size": 24, "word_embed_proj_dim": 24, "ffn_dim": 40, "num_hidden_layers": 1,
    "num_attention_heads": 2, "vocab_size": 44, "max_position_embeddings": 64, "activation_function": "relu",
    "do_layer_norm_before": True, "tie_word_embeddings": True,
}  # fmt: skip
ODD = {  # an FFN of no whole blocks
    "vocab_size": 44, "hidden_size": 36, "intermediate_size": 50, "num_hidden_layers": 1, "num_attention_heads": 3,
    "num_key_value_heads": 1,
}  # fmt: skip
EVEN = {
    **ODD, "intermediate_size": 64, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
DEEP = {**ODD, "num_hidden_layers": 2}
WIDE = {**EVEN, "intermediate_size": 128}  # of whole blocks of planes
LINES = {**EVEN, "hidden_size": 64, "intermediate_size": 160}  # inputs of whole lines, and a last tile that is shorter
MIXTURE = {  # of four experts, of which a token takes two
    **EVEN, "model_type": "mixtral", "intermediate_size": 12, "num_local_experts": 4, "num_experts_per_tok": 2,
}  # fmt: skip
SOME = 0.05  # a point of the dial at which these models read some of their weights
PROMPTS = [list(range(3, 40)), [9], list(range(10, 27))]


def model_of(kind: str, shape: str, device: str) -> Transformer:
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "opt", OPT)
        patch.setitem(SHAPES, "gelu", {**OPT, "activation_function": "gelu"})
        patch.setitem(SHAPES, "odd", {**SHAPES["toy"], **ODD})
        patch.setitem(SHAPES, "deep", {**SHAPES["toy"], **DEEP})
        patch.setitem(SHAPES, "wide", {**SHAPES["toy"], **WIDE})
        patch.setitem(SHAPES, "lines", {**SHAPES["toy"], **LINES})
        patch.setitem(SHAPES, "even", {**SHAPES["toy"], **EVEN})
        patch.setitem(SHAPES, "mixture", {**SHAPES["toy"], **MIXTURE})
        model = random_model(shape, kind, device, torch.float32)
    if shape == "mixture":
        model.spec = replace(model.spec, num_tiers=2)
        for ffn in (each for each in model.modules() if isinstance(each, MixtureFFN)):
            ffn.thresholds = torch.tensor([2.0, 1.0], device=device)
    return model


def filled(kind: str, shape: str, device: str, int8_pages: bool = False, programmed: bool = True) -> ModelRunner:
    """A runner whose pages hold the prompts, each in four blocks of its own."""
    runner = ModelRunner(
        model_of(kind, shape, device), 12, 64, torch.float32, int8_pages=int8_pages, programmed=programmed
    )
    runner.forward([Span(ids, 0, table_of(i)) for i, ids in enumerate(PROMPTS)])
    return runner


def table_of(row: int) -> range:
    return range(4 * row, 4 * row + 4)


def spans(point: float = 0.0, rows: tuple[int, ...] = (0, 1, 2)) -> list[Span]:
    return [Span([5 + row], len(PROMPTS[row]), table_of(row), point, decodes=True) for row in rows]


def step_of(runner: ModelRunner) -> DeviceStep:
    return DeviceStep(runner.model, runner.pages.layers, 64)


def by_step(runner: ModelRunner, step: DeviceStep, some: list[Span]) -> tuple[Tensor, Tensor | None]:
    runner.program = step  # what a runner on a GPU has
    found = runner.forward(some)
    return found.logits.cpu(), None if found.shares is None else found.shares.cpu()


@pytest.mark.parametrize("shape", ["odd", "even", "opt", "gelu"])
@pytest.mark.parametrize(("kind", "point"), [("dense", 0), ("int8", 0), ("graded", SOME), ("planes", 1)])
def test_a_step_gives_the_logits_and_shares_of_a_cpu(kind: str, point: float, shape: str, device: str) -> None:
    wanted = filled(kind, shape, "cpu").forward(spans(point))
    runner = filled(kind, shape, device)
    logits, shares = by_step(runner, step_of(runner), spans(point))
    assert (logits - wanted.logits).norm() < 1e-4 * wanted.logits.norm()
    assert (shares is None) == (wanted.shares is None)
    if shares is not None and wanted.shares is not None:
        assert 0.1 < float(shares[0, 0]) < 0.9 and (shares - wanted.shares).abs().max() < 0.02


def test_planes_of_a_gate_are_finished_with_what_it_multiplies(device: str) -> None:
    wanted, runner = filled("graded", "wide", "cpu").forward(spans(SOME)), filled("graded", "wide", device)
    step = step_of(runner)
    assert "activate" not in [each.name for each in step.program.launches]
    assert (by_step(runner, step, spans(SOME))[0] - wanted.logits).norm() < 1e-4 * wanted.logits.norm()


def test_tiles_give_the_logits_and_shares_of_a_cpu_at_every_tier(device: str) -> None:
    some = [spans(point, (row,))[0] for row, point in enumerate((0.0, 0.5, 1.0))]
    wanted, runner = filled("tiles", "lines", "cpu", programmed=False).forward(some), filled("tiles", "lines", device)
    step = step_of(runner)
    logits, shares = by_step(runner, step, some)
    assert (logits - wanted.logits).norm() < 1e-4 * wanted.logits.norm()
    assert shares is not None and wanted.shares is not None and shares.equal(wanted.shares)
    assert by_step(runner, step, some[2:])[0].equal(logits[2:]) and step.program.num_launches(full=False) == 2 + 7


@pytest.mark.parametrize("kind", ["int8", "dense"])
def test_a_mixture_gives_the_logits_and_shares_of_a_cpu_at_every_tier(kind: str, device: str) -> None:
    some = [spans(point, (row,))[0] for row, point in enumerate((0.0, 0.5, 1.0))]
    wanted, runner = filled(kind, "mixture", "cpu").forward(some), filled(kind, "mixture", device, programmed=False)
    step = step_of(runner)
    logits, shares = by_step(runner, step, some)
    assert (logits - wanted.logits).norm() < 1e-4 * wanted.logits.norm()
    assert shares is not None and wanted.shares is not None and shares.equal(wanted.shares)
    assert [each.name for each in step.program.launches].count("mixture") == 1
    if kind == "int8":
        assert by_step(runner, step, some[2:])[0].equal(logits[2:])


def test_a_prompt_of_a_mixture_is_what_its_experts_give_one_by_one(device: str) -> None:
    runner = filled("int8", "mixture", device, programmed=False)
    [ffn] = [each for each in runner.model.modules() if isinstance(each, MixtureFFN)]
    x = torch.randn(9, ffn.choice.weight.shape[1], device=device)
    one_by_one = ffn.dense(x)
    step_of(runner)
    assert ffn.weights is not None
    assert ffn.get_buffer("experts.0.up.weight").data_ptr() == ffn.weights.up.data_ptr()
    at_once = mixture_ffn(x, ffn.weights, *ffn._chosen(x, None), ffn.activation_name)
    assert (at_once - one_by_one).norm() < 1e-4 * one_by_one.norm()


def test_experts_without_a_kernel_run_module_by_module(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXTURE, "intermediate_size", 14)
    with pytest.raises(NoProgramError, match="no kernel for experts of 32 inputs in Int8Linear of torch.int8"):
        step_of(filled("int8", "mixture", device, programmed=False))


def test_pages_in_int8_hold_what_a_cpu_puts_there(device: str) -> None:
    runner, other = (filled("int8", "even", where, int8_pages=True) for where in (device, "cpu"))
    logits, _ = by_step(runner, step_of(runner), spans())
    assert (logits - other.forward(spans()).logits).norm() < 1e-2 * logits.norm()
    for ours, theirs in zip(runner.pages.layers, other.pages.layers, strict=True):
        assert (ours.keys[0:12].cpu().int() - theirs.keys[0:12].int()).abs().max() <= 1


@pytest.mark.parametrize(("kind", "point"), [("int8", 0), ("graded", SOME), ("planes", 1)])
def test_a_row_has_the_same_bits_alone_and_in_any_batch(kind: str, point: float, device: str) -> None:
    runner = filled(kind, "even", device)
    step = step_of(runner)
    together, _ = by_step(runner, step, spans(point, (0, 2)))
    for place, row in enumerate((0, 2)):
        assert by_step(runner, step, spans(point, (row,)))[0].equal(together[place : place + 1])


def test_rows_that_are_all_full_read_graded_weights_as_tiles_with_the_same_bits(device: str) -> None:
    runner = filled("graded", "even", device)
    program = step_of(runner).program
    assert "graded" not in [each.name for each in program.whole]
    program.x[:2].copy_(torch.randn(2, program.x.shape[1], generator=torch.Generator().manual_seed(0)))
    before = program.x[:2].clone()
    by_tiles = program.run(2, full=2).clone()
    program.x[:2].copy_(before)
    assert program.run(2, full=0).equal(by_tiles)


@pytest.mark.parametrize(("kind", "point"), [("graded", SOME), ("planes", 0.5)])
def test_rows_of_several_tiers_share_a_step(kind: str, point: float, device: str) -> None:
    runner = filled(kind, "even", device)
    step = step_of(runner)
    mixed = [spans(0.0, (0,))[0], spans(point, (1,))[0]]
    logits, shares = by_step(runner, step, mixed)
    alone = [by_step(runner, step, [span])[0] for span in mixed]
    assert logits.equal(torch.cat(alone)) and shares is not None and float(shares[0, 0]) == 1.0 > float(shares[1, 0])


@pytest.mark.parametrize(("kind", "point"), [("int8", 0), ("planes", 1)])
def test_a_row_that_is_no_number_harms_no_other(kind: str, point: float, device: str) -> None:
    runner = filled(kind, "even", device)
    step = step_of(runner)
    alone = by_step(runner, step, spans(point, (0,)))[0]
    for layer in runner.pages.layers:
        layer.values[list(table_of(2))] = torch.nan
    logits, _ = by_step(runner, step, spans(point, (0, 2)))
    assert logits[0].equal(alone[0]) and logits[1].isnan().all()


# --- launches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "shape", "names"),
    [
        ("int8", "even", ["digits", "attend", "digits", "digits", "digits"]),
        ("int8", "deep", ["digits", "attend", "digits", "digits", "activate", "digits"]),
        ("graded", "even", ["graded", "attend", "graded", "measure", "graded", "activate", "graded", "measure"]),
    ],
)
def test_a_layer_is_a_few_launches(kind: str, shape: str, names: list[str], device: str) -> None:
    launches = [each.name for each in step_of(filled(kind, shape, device)).program.launches]
    assert launches == ["measure", *(names * (2 if shape == "deep" else 1)), kind.replace("int8", "digits")]


@pytest.mark.parametrize(("shape", "full", "tier"), [("even", 5, 7), ("opt", 7, 8)])
def test_a_layer_at_a_tier_is_one_or_two_launches_more(shape: str, full: int, tier: int, device: str) -> None:
    """Layer norms have to be measured before attention; RMS norms are told, all but that of the embeddings."""
    program = step_of(filled("planes", shape, device)).program
    around = ["measure", "digits"]
    assert [program.num_launches(full=each) - len(around) for each in (True, False)] == [full, tier]
    assert [each.name for each, _ in program.launched(1, 0)].count("planes") == 1


def test_rows_at_the_full_tier_come_first_in_a_step(device: str) -> None:
    runner = filled("planes", "even", device)
    runner.program = step_of(runner)
    with pytest.raises(ValueError, match="rows at the full tier come first"):
        runner.forward([*spans(1, (0,)), *spans(0, (1,)), *spans(1, (2,))])


def test_tiles_of_planes_run_module_by_module(device: str) -> None:
    runner = filled("planes", "even", device, programmed=False)
    for ffn in (each for each in runner.model.modules() if isinstance(each, PlaneFFN)):
        ffn.tile = 16
    with pytest.raises(NoProgramError, match="no kernel for FFNs that choose tiles of 16 by 4 bits of 32 inputs"):
        step_of(runner)


def test_tiles_of_rows_that_are_no_whole_lines_run_module_by_module(device: str) -> None:
    with pytest.raises(NoProgramError, match="no kernel for FFNs that choose tiles of 16 of 32 inputs in torch.int8"):
        step_of(filled("tiles", "even", device, programmed=False))


def test_a_form_of_few_rows_has_the_tables_of_the_longest_sequence(device: str) -> None:
    runner = filled("int8", "even", device, programmed=False)
    some, forms = spans(rows=(0,)) * 5, Forms(runner)
    assert forms.size_for(some[:1]) == FormSize(1, 0, 4)
    short = [replace(span, table=range(1)) for span in some]
    assert forms.size_for(short) == FormSize(8, 0, 1)
    runner.program = step_of(runner)
    assert forms.size_for(short) == FormSize(8, 0, 4)


def test_other_passes_run_module_by_module(device: str) -> None:
    runner = filled("int8", "even", device, programmed=False)
    step = step_of(runner)
    assert step.takes([1] * 8) and not step.takes([1] * 9) and not step.takes([1, 2])
    wanted = runner.forward([Span([7, 8], 37, table_of(0))]).logits
    runner.program = step
    assert runner.forward([Span([7, 8], 37, table_of(0))]).logits.equal(wanted)


# --- attention ------------------------------------------------------------------------------------------------------


def test_parts_of_a_long_sequence_are_joined(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = filled("int8", "even", device)
    whole, _ = by_step(runner, step_of(runner), spans())
    monkeypatch.setattr("moesaic.kernels.decode.attend.PART", 16)
    parts, _ = by_step(runner, step_of(runner), spans())
    again, _ = by_step(runner, step_of(runner), spans())
    assert (parts - whole).norm() < 1e-3 * whole.norm() and parts.equal(again)


# --- on a GPU that is not there -------------------------------------------------------------------------------------


class Launched:
    """Stands for a kernel and keeps what it is launched with: of tensors the shape, dtype and device."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self._name, self._seen, self._grid = name, seen, ""

    def __getitem__(self, grid: object) -> "Launched":
        self._grid = str(grid)
        return self

    def __call__(self, *operands: object, **constants: object) -> None:
        told = [str((each.shape, each.dtype, each.device)) if isinstance(each, Tensor) else each for each in operands]
        self._seen.append(f"{self._name} {self._grid} {told} {constants}")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    for name, module in list(sys.modules.items()):
        for kernel in [each for each in vars(module) if each.startswith("_") and each.endswith("_kernel")]:
            if name.startswith("moesaic.kernels."):
                monkeypatch.setattr(module, kernel, Launched(kernel, seen))
    return seen


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        *((kind, shape) for kind in ("dense", "int8", "graded", "planes") for shape in ("even", "opt", "gelu")),
        ("tiles", "lines"),
        ("int8", "mixture"),
        ("dense", "mixture"),
    ],
)
def test_two_steps_with_other_numbers_are_the_same_launches(kind: str, shape: str, launched: list[str]) -> None:
    with fake_gpu():
        runner = ModelRunner(model_of(kind, shape, "cuda"), 12, 64, torch.float32)
        form, found = Form(runner, FormSize(1, int(runner.model.spec.num_tiers > 1), 4)), []
        for token, start, point in ((5, 3, 1.0), (17, 40, 0.25)):
            spans = [Span([token], start, range(1, 4)), Span([token + 1], start, range(5, 8), point)]
            form.fill(spans[: form.size.rows], [0.0] * form.size.rows, [0.25] * form.size.rows)
            launched.clear()
            with Recorder() as recorder:
                form.run()
            found.append((list(launched), [str(each) for each in recorder.seen]))
    assert not runner.without_program and found[0] == found[1] and len(found[0][0]) > 5
    assert not any("cpu" in each or "_local_scalar_dense" in each for each in (*found[0][0], *found[0][1]))


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "point"), [("dense", 0.0), ("int8", 0.0), ("graded", SOME), ("planes", 1.0)])
def test_a_captured_step_is_the_step_bit_for_bit_whatever_its_numbers(kind: str, point: float) -> None:
    runner = filled(kind, "even", "cuda")
    for rows in (1, 2, 3):
        form = Form(runner, FormSize(0 if point else rows, rows if point else 0, 4))
        for token in (5, 9, 17):
            some = [replace(span, token_ids=[token]) for span in spans(point)[:rows]]
            form.fill(some, [0.0] * rows, [0.5] * rows)
            captured = form.outcome().clone()
            assert captured.equal(form.run())
        assert form.graph is not None


# --- every family ---------------------------------------------------------------------------------------------------

FEATURED = {case.family: case for case in CASES}


@pytest.mark.parametrize("case", [*FEATURED.values()], ids=str)
def test_a_step_of_any_family_gives_what_its_modules_give(case: Case, tmp_path: Path, device: str) -> None:
    case.build(tmp_path)
    model = load_transformer(open_checkpoint(tmp_path), torch.device(device), "float32")
    runner = ModelRunner(model, 8, 64, torch.float32, programmed=False)
    ids = list(range(3, 30))
    runner.forward([Span(ids, 0, range(4))])
    wanted = runner.forward([Span([7], 27, range(4))]).logits
    found, _ = by_step(runner, step_of(runner), [Span([7], 27, range(4))])
    assert (found - wanted.cpu()).abs().max() < 1e-5 * wanted.abs().max()
