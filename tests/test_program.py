"""The step as a program: what it gives is what the modules give, and a row's bits depend on nothing but the row."""

import pytest
import torch
from graded_cases import thresholds_of, weights_of
from program_cases import LIBRARY, SPANS, alone, runner_of, spans_at, turns
from torch.nn import functional

from moesaic.bench.gpu.random_models import LOW
from moesaic.engine.runner import Span
from moesaic.kernels import native_program
from moesaic.kernels.activations import ACTIVATIONS
from moesaic.kernels.digit_linear import digit_linear, pack_digits
from moesaic.kernels.graded_linear import graded_linear
from moesaic.kernels.native_program import Asked, Program
from moesaic.kernels.paged_attention import KVPages, PagedTokens, paged_attention
from moesaic.models.rope import rotate
from moesaic.models.spec import TransformerSpec
from moesaic.models.transformer import Norm

KINDS = ["dense", "int8", "int8_dynamic", "graded"]


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_a_norm_is_that_of_the_module(kind: str) -> None:
    spec = TransformerSpec("llama", 9, 83, 9, kind, 1e-5, True, (), norm_bias=kind == "layer")  # type: ignore[arg-type]
    norm, x = Norm(spec), torch.randn(5, 83) * 10 + 3
    for vector in norm.parameters():
        vector.data.normal_()
    found = alone(lambda p: p.norm(p.input, p.place(83), norm.weight, norm.bias, 1e-5, kind == "layer"), x)
    assert torch.allclose(found, norm(x), rtol=1e-5, atol=1e-5)


def test_linears_are_their_kernels_bit_for_bit() -> None:
    x, weights = torch.randn(7, 65), weights_of(65, 130, biased=True)
    asked = thresholds_of(x, weights)
    found = alone(lambda p: p.graded_linear(p.input, p.place(130), weights, 0, False), x, Asked(asked, 7))
    assert found.equal(graded_linear(x, weights, asked).y)
    digits = pack_digits(weights.packed.unpacked(), weights.scale, weights.bias)
    assert alone(lambda p: p.digit_linear(p.input, p.place(130), digits), x).equal(digit_linear(x, digits))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_dense_linear_is_torchs(dtype: torch.dtype) -> None:
    x, weight, bias = torch.randn(7, 65), torch.randn(30, 65).to(dtype), torch.randn(30)
    found = alone(lambda p: p.dense_linear(p.input, p.place(30), weight, bias), x)
    assert torch.allclose(found, functional.linear(x, weight.float(), bias), atol=1e-4)


def test_heads_are_turned_as_rope_turns_them() -> None:
    torch.manual_seed(1)
    x = torch.randn(6, 16)
    found = alone(lambda p: p.rotate(p.input, 16, 16), x)
    torch.manual_seed(1)
    torch.randn(6, 16)
    cosine, sine = turns(6, 16)
    assert torch.allclose(found, rotate(x, cosine, sine), atol=1e-6)


@pytest.mark.parametrize("activation", ["silu", "relu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("gated", [True, False])
def test_activations_are_those_of_the_ffn(activation: str, gated: bool) -> None:
    x = torch.randn(4, 24) * 5
    act = ACTIVATIONS[activation]

    def write(p: Program) -> None:
        gate = p.input.columns(0, 12) if gated else None
        p.activate(p.input.columns(12, 12), p.place(12), activation, gate)

    wanted = act(x[:, :12]) * x[:, 12:] if gated else act(x[:, 12:])
    assert torch.allclose(alone(write, x), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("int8", [False, True])
def test_attention_is_the_kernel_bit_for_bit(int8: bool) -> None:
    x = torch.randn(9, 4 * 16)  # two heads of queries, one of keys, one of values
    shape, tokens = (
        (1, 1, 16, 16),
        PagedTokens(torch.zeros(1, 1).int(), torch.zeros(9).int(), torch.arange(9).int(), [9], 9),
    )

    def pages() -> KVPages:
        kept = [torch.zeros(shape, dtype=torch.int8 if int8 else torch.float32) for _ in range(2)]
        return KVPages(*kept, *(torch.zeros(shape[:3]) for _ in range(2))) if int8 else KVPages(*kept)

    query, key, value = (part.reshape(9, -1, 16) for part in torch.split(x, [32, 16, 16], 1))
    wanted = paged_attention(query, key, value, pages(), tokens).flatten(1)

    def write(p: Program) -> None:
        query, key, value = (p.input.columns(at, width) for at, width in ((0, 32), (32, 16), (48, 16)))
        p.attend(query, key, value, p.place(32), pages(), 16)

    assert alone(write, x).equal(wanted)


@pytest.mark.parametrize("shape", ["toy", "opt", "toy-gelu"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("int8_pages", [False, True])
def test_a_program_gives_the_logits_of_the_modules(kind: str, shape: str, int8_pages: bool) -> None:
    program, modules = (runner_of(kind, shape, way, int8_pages) for way in (True, False))
    assert program.program is not None and modules.program is None
    found, wanted = (each.forward(spans_at(scored=1)).logits for each in (program, modules))
    assert (found - wanted).norm() < (1e-2 if int8_pages else 1e-3) * wanted.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_alone_in_any_batch_and_on_any_threads(kind: str) -> None:
    runner = runner_of(kind)
    point = LOW if kind == "graded" else 0.0
    runner.use_threads(2)
    together = runner.forward(spans_at(point)).logits
    runner.use_threads(1)
    each = torch.cat([runner.forward([span]).logits for span in spans_at(point)])
    assert together.equal(each)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_was_packed_for_a_program_computes_the_same_module_by_module(kind: str) -> None:
    packed, plain = runner_of(kind), runner_of(kind, programmed=False)
    packed.program = None
    found, wanted = (each.forward(spans_at()).logits for each in (packed, plain))
    assert (found - wanted).norm() < 1e-3 * wanted.norm()


def test_a_prompt_leaves_the_same_bits_in_chunks() -> None:
    runner, (_, ids, table) = runner_of("int8"), SPANS[2]
    whole = runner.forward([Span(ids, 0, table)]).logits
    for start in range(0, 35, 7):
        parts = runner.forward([Span(ids[start : start + 7], start, range(12, 16))]).logits
    assert parts.equal(whole)


@pytest.mark.parametrize("shape", ["toy", "toy-gelu"])
def test_rows_of_all_tiers_are_charged_as_by_the_modules(shape: str) -> None:
    found = []
    for way in (True, False):
        runner = runner_of("graded", shape, programmed=way)
        spans = [Span(ids, 0, table, point) for (_, ids, table), point in zip(SPANS, (0.0, 0.5, LOW), strict=True)]
        shares = runner.forward(spans).shares
        assert shares is not None and shares[0].tolist() == [1, 1]
        found.append(shares)
    assert torch.allclose(found[0], found[1], atol=0.02)


def test_only_the_rows_that_are_scored_pass_the_head() -> None:
    runner = runner_of("int8")
    all_rows = runner.forward([Span(SPANS[2][1], 0, SPANS[2][2], scored=35)]).logits
    assert runner.forward([Span(SPANS[2][1], 0, SPANS[2][2], scored=3)]).logits.equal(all_rows[-3:])


def test_linears_that_are_too_wide_for_two_digits_run_by_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moesaic.models.program.MAX_INPUTS", 64)
    runner = runner_of("int8")
    assert runner.program is None and runner.without_program.startswith("there is no instruction for layers.0.")
    assert runner.forward(spans_at()).logits.isfinite().all()


def test_tables_that_point_outside_are_refused() -> None:
    runner = runner_of("int8")
    with pytest.raises(IndexError, match="point outside the pool"):
        runner.forward([Span([1], 0, [99])])


def test_a_row_that_is_no_number_harms_no_other() -> None:
    runner = runner_of("int8")
    wanted = runner.forward([Span([3], 0, [1])]).logits
    scale = runner.model.embedding.weight_scale
    assert isinstance(scale, torch.Tensor)
    scale[7] = torch.nan
    found = runner.forward([Span([7], 0, [0]), Span([3], 0, [1])]).logits
    others = [token for token in range(found.shape[1]) if token != 7]  # the head is tied
    assert found[0].isnan().all() and found[1, others].equal(wanted[0, others])


def test_the_c_structures_are_as_long_as_here() -> None:
    assert LIBRARY is not None
    sizes = [LIBRARY.library.moesaic_sizeof(which) for which in range(2)]
    assert sizes == [native_program.INSTRUCTION_BYTES, native_program.RUN_BYTES]
