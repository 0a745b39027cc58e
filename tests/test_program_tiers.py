"""FFNs that choose neurons, as instructions: what the modules give, whoever of whatever tier is beside a row."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import opt
from program_cases import SPANS, alone, runner_of
from test_expert_ffn import operands
from test_plane_ffn import ALWAYS, NEVER, mixed_shares, thresholds_of, tokens_of, weights_of
from test_step_share import tier
from torch import Tensor

from moesaic.bench.gpu.random_models import LOW, SHAPES, random_model
from moesaic.compress.pipeline import compress
from moesaic.engine.llm import LLM
from moesaic.engine.runner import Forward, ModelRunner, Span
from moesaic.kernels.expert_ffn import expert_ffn
from moesaic.kernels.instructions import Points
from moesaic.kernels.native_program import Asked
from moesaic.kernels.plane_ffn import packed_weights, plane_ffn, plane_scores
from moesaic.kernels.route import route_scores
from moesaic.models.ffn.mixture import MixtureFFN
from moesaic.models.ffn.sparse import SparseFFN
from moesaic.models.program import gap
from moesaic.models.spec import BIT_PLANES, ExpertSpec
from moesaic.models.step_share import StepShare
from moesaic.models.transformer import Layer
from moesaic.models.walk import NoProgramError

KINDS = pytest.mark.parametrize("kind", ["planes", "tiles"])
MIXED = (0.0, 0.5, float(LOW))  # full rows come first


def points_of(thresholds: Tensor, hidden: int) -> Points:
    """One tier for each row of thresholds."""
    return Points(thresholds, torch.randn(len(thresholds), hidden), 0)


def asked_at(tiers: Sequence[int], full: int = 0, parts: Sequence[float] = ()) -> Asked:
    between = torch.tensor(parts).unsqueeze(1) if parts else None
    return Asked(torch.zeros(len(tiers)), full, torch.tensor(tiers), between)


def spans_at(points: Sequence[float]) -> list[Span]:
    return [Span(ids, 0, table, point) for (_, ids, table), point in zip(SPANS, points, strict=True)]


def forward(kind: str, points: Sequence[float], shape: str = "toy", programmed: bool = True) -> Forward:
    """Module by module over the weights as the program packed them, so that both choose of the same values."""
    runner = runner_of(kind, shape)
    assert runner.program is not None
    runner.program = runner.program if programmed else None
    found: Forward = runner.forward(spans_at(points))
    return found


@pytest.mark.parametrize(("gated", "activation"), [(True, "silu"), (False, "relu"), (True, "relu"), (False, "gelu")])
def test_planes_are_their_kernel_bit_for_bit(gated: bool, activation: str) -> None:
    x, weights = tokens_of(9, 65), packed_weights(weights_of(65, 100, gated, biased=True), 4)
    thresholds = thresholds_of(plane_scores(x, weights, 4, activation), mixed_shares(9))
    points, rows = points_of(thresholds, 65), list(range(9))
    found = alone(lambda p: p.plane_ffn(p.input, p.place(65), weights, 4, 1, activation, points), x, asked_at(rows))
    assert found.equal(plane_ffn(x, weights, thresholds, 4, activation).y + points.constants)


@pytest.mark.parametrize("gated", [True, False])
def test_tiles_are_their_kernels_bit_for_bit(gated: bool) -> None:
    x, weights, _, tile, activation = operands((7, 64, 100, 24), gated=gated)
    router = torch.randn(16, 64), torch.randn(5, 16)
    scores = route_scores(x, *router)
    points = points_of(torch.stack([scores.median(1).values, torch.zeros(7)], 1), 64)
    active, made_up = ~(scores <= points.thresholds[:, :1]), points.constants.clone()
    active[:2], made_up[:2] = True, 0.0  # at the full tier
    found = alone(
        lambda p: p.expert_ffn(p.input, p.place(64), weights, router, tile, activation, points),
        x,
        asked_at(range(7), full=2),
    )
    assert found.equal(expert_ffn(x, weights, active, tile, activation) + made_up)


@pytest.mark.parametrize("threshold", [NEVER, ALWAYS])
def test_none_and_all_of_the_neurons_may_be_chosen(threshold: float) -> None:
    x, weights = tokens_of(3, 37), packed_weights(weights_of(37, 17), 4)
    thresholds = torch.full((1, 2), threshold)
    points = Points(thresholds, torch.zeros(1, 37), 0)
    found = alone(lambda p: p.plane_ffn(p.input, p.place(37), weights, 4, 1, "silu", points), x, asked_at([0] * 3))
    assert bool(found.any()) == (threshold == ALWAYS)
    assert found.equal(plane_ffn(x, weights, thresholds.expand(3, 2), 4, "silu").y)


def test_between_two_tiers_a_row_asks_for_what_lies_on_the_line() -> None:
    x, weights = tokens_of(2, 37), packed_weights(weights_of(37, 17), 4)
    points = points_of(torch.tensor([[0.0, 0.0], [0.5, 4.0]]), 37)
    asked = asked_at([0, 1], parts=[0.25, 0.0])
    found = alone(lambda p: p.plane_ffn(p.input, p.place(37), weights, 4, 1, "silu", points), x, asked)
    thresholds, constants = (
        torch.stack([torch.lerp(table[0], table[1], 0.25), table[1]]) for table in (points.thresholds, points.constants)
    )
    torch.testing.assert_close(found, plane_ffn(x, weights, thresholds, 4, "silu").y + constants)


@KINDS
@pytest.mark.parametrize("shape", ["toy", "opt"])
@pytest.mark.parametrize("points", [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), MIXED])
def test_a_program_gives_the_logits_and_shares_of_the_modules(kind: str, shape: str, points: Sequence[float]) -> None:
    found, wanted = (forward(kind, points, shape, programmed) for programmed in (True, False))
    assert (found.logits - wanted.logits).norm() < 1e-3 * wanted.logits.norm()
    assert found.shares is not None and wanted.shares is not None
    assert (found.shares - wanted.shares).abs().max() < 1e-3 and float(found.shares[:, 0].min()) > 0


@KINDS
def test_a_row_of_any_tier_has_the_same_bits_alone_and_on_any_threads(kind: str) -> None:
    runner = runner_of(kind)
    runner.use_threads(2)
    together = runner.forward(spans_at(MIXED)).logits
    runner.use_threads(1)
    assert together.equal(torch.cat([runner.forward([span]).logits for span in spans_at(MIXED)]))


@KINDS
def test_a_row_that_is_no_number_harms_no_other(kind: str) -> None:
    runner = runner_of(kind)
    wanted = runner.forward([Span([3], 0, [1], LOW)]).logits
    scale = runner.model.embedding.weight_scale
    assert isinstance(scale, Tensor)
    scale[7] = torch.nan
    found = runner.forward([Span([7], 0, [0], LOW), Span([3], 0, [1], LOW)]).logits
    others = [token for token in range(found.shape[1]) if token != 7]  # the head is tied
    assert found[0].isnan().all() and found[1, others].equal(wanted[0, others])


def test_planes_give_up_rows_that_nobody_reads_and_score_as_before() -> None:
    packed, plain = (runner_of("planes", programmed=way).model.layers[0].ffn for way in (True, False))
    x = torch.randn(4, 48)
    assert len(packed.planes.up) == len(packed.planes.down) == 0 < len(plain.planes.up)
    assert all(one.equal(other) for one, other in zip(packed.plane_scores(x), plain.plane_scores(x), strict=True))


def test_rows_choose_together_as_the_modules_have_it() -> None:
    found = []
    for programmed in (True, False):
        runner = ModelRunner(runner_of("planes").model, 16, 64, torch.float32, StepShare([tier()], 0.3))
        assert runner.program is not None
        runner.program = runner.program if programmed else None
        spans = [replace(span, decodes=True) for span in spans_at((0.0, 1.0, 1.0))]
        found.append(runner.forward(spans))
    assert (found[0].logits - found[1].logits).norm() < 1e-3 * found[1].logits.norm()


@KINDS
def test_rows_at_the_full_tier_come_first(kind: str) -> None:
    with pytest.raises(ValueError, match="rows at the full tier come first"):
        runner_of(kind).forward(spans_at((1.0, 0.0, 1.0)))


@pytest.mark.parametrize(
    ("experts", "why"),
    [
        (ExpertSpec(16, BIT_PLANES, router_bits=4), "its FFNs choose neurons by planes of tiles of 16"),
        (ExpertSpec(1, BIT_PLANES, router_bits=5), "its FFNs choose neurons by 5 bits of 48 inputs"),
    ],
)
def test_planes_that_are_not_packed_have_no_instruction(experts: ExpertSpec, why: str) -> None:
    spec = runner_of("planes", programmed=False).model.spec
    layers = tuple(replace(layer, ffn=replace(layer.ffn, experts=experts)) for layer in spec.layers)
    assert gap(spec) == "" and gap(replace(spec, layers=layers)) == why


def test_a_router_of_another_kind_runs_by_modules() -> None:
    model = runner_of("tiles", programmed=False).model
    for layer in model.layers:
        assert isinstance(layer, Layer) and isinstance(layer.ffn, SparseFFN)
        layer.ffn.router = torch.nn.Identity()
    runner = ModelRunner(model, 16, 64, torch.float32)
    assert runner.without_program == "its FFNs have no instruction" and runner.forward(spans_at((0.0,) * 3))


MIXTURE = {"model_type": "mixtral", "num_local_experts": 5, "num_experts_per_tok": 4, "tie_word_embeddings": False}


@pytest.fixture(params=["dense", "int8"])
def mixture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModelRunner:
    """Five experts, of which a token takes four in full and one at the lowest tier."""
    monkeypatch.setitem(SHAPES, "mixture", {**SHAPES["toy"], **MIXTURE})
    torch.manual_seed(0)
    model = random_model("mixture", request.param, "cpu", torch.float32)
    model.spec = replace(model.spec, num_tiers=2)
    for ffn in (each for each in model.modules() if isinstance(each, MixtureFFN)):
        ffn.thresholds = torch.tensor([4.0, 1.0])
    return ModelRunner(model, 16, 64, torch.float32)


def test_a_mixture_gives_the_logits_and_shares_of_its_modules(mixture: ModelRunner) -> None:
    program, found = mixture.program, mixture.forward(spans_at(MIXED))
    mixture.program = None
    wanted = mixture.forward(spans_at(MIXED))
    assert program is not None and (found.logits - wanted.logits).norm() < 1e-3 * wanted.logits.norm()
    assert found.shares is not None and wanted.shares is not None and found.shares.equal(wanted.shares)


def test_a_row_of_a_mixture_has_the_same_bits_alone_and_on_any_threads(mixture: ModelRunner) -> None:
    mixture.use_threads(2)
    together = mixture.forward(spans_at(MIXED)).logits
    mixture.use_threads(1)
    assert together.equal(torch.cat([mixture.forward([span]).logits for span in spans_at(MIXED)]))


def test_a_row_of_a_mixture_that_is_no_number_harms_no_other(mixture: ModelRunner) -> None:
    wanted = mixture.forward([Span([3], 0, [1], LOW)]).logits
    for layer in mixture.pages.layers:
        layer.values[0] = torch.nan
    found = mixture.forward([Span([7], 3, [0], LOW), Span([3], 0, [1], LOW)]).logits
    assert found[0].isnan().all() and found[1].equal(wanted[0])


@pytest.mark.parametrize("router", [{"router": "bit_planes", "expert_size": 1}, {"expert_size": 16}])
def test_a_relu_model_says_the_same_and_spends_the_same_in_one_call(
    router: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opt(tmp_path / "opt")
    moefy = {"tiers": {"high": 0.8, "low": 0.55}, **router}
    compress(tmp_path / "opt", tmp_path / "out", {
        "calibration": {"sequences": 8, "length": 32}, "evaluation": {"documents": 1, "truncate": 24},
        "stages": [{"moefy": moefy}, {"quantize": {"linears": "int8"}}],
    })  # fmt: skip
    found = []
    for _ in range(2):
        llm = LLM(tmp_path / "out")
        answers = [
            llm.generate(["Once upon", "One day, a"], tier=tier, temperature=0, max_new_tokens=16, ignore_eos=True)
            for tier in ("full", "high", "low")
        ]
        found.append([(each.token_ids, each.usage.bytes_share) for some in answers for each in some])
        assert bool(llm.description.without_program) == bool(len(found) - 1)
        monkeypatch.setattr("moesaic.engine.runner.StepProgram", refused)
    for (ids, share), (wanted, read) in zip(*found, strict=True):
        assert ids == wanted and share == pytest.approx(read, abs=2e-3)


def refused(*_: object) -> None:
    raise NoProgramError("nobody wants one")
