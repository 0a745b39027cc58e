"""Experts: the dense model to everyone who asks for all of them, and a part of it to those who ask for less."""

import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from builders import edit_json, llama, opt
from kernel_harness import library
from torch import Tensor

from moesaic.compress.calibration import Calibration, CalibrationSettings
from moesaic.compress.pipeline import compress
from moesaic.compress.walk import Constant, walk
from moesaic.engine.engine import Engine
from moesaic.engine.llm import LLM
from moesaic.engine.request import Request, Stopping
from moesaic.engine.runner import ModelRunner
from moesaic.engine.sampling import Sampling
from moesaic.evaluate.score import score_documents
from moesaic.evaluate.texts import embedded_text, encode_documents, read_documents
from moesaic.kernels.planes.native import plane_isa
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.dial import Dial
from moesaic.models.errors import CheckpointError, RecipeError, Unsupported
from moesaic.models.ffn.dense import FFN
from moesaic.models.ffn.planes import PlaneFFN
from moesaic.models.tokenizer import Tokenizer

TIERS = {"high": 0.8, "low": 0.5}
BY_ROUTER = {"moefy": {"expert_size": 8, "router_width": 16, "tiers": TIERS}}
BY_PLANES = {"moefy": {"expert_size": 1, "router": "bit_planes", "bits": 3, "tiers": TIERS}}
INT8 = {"quantize": {"linears": "int8"}}


def made(model: str | Path, out: Path, *stages: Mapping[str, Any]) -> Path:
    compress(model, out, {
        "calibration": {"sequences": 12, "length": 48}, "evaluation": {"documents": 1, "truncate": 24},
        "stages": list(stages),
    })  # fmt: skip
    return out


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("stories")
    return {
        "router": made("stories260k", folder / "router", BY_ROUTER),
        "planes": made("stories260k", folder / "planes", BY_PLANES, INT8),
        "int8": made("stories260k", folder / "int8", INT8),
    }


def tokens(count: int = 40) -> torch.Tensor:
    return torch.randint(3, 250, (2, count), generator=torch.Generator().manual_seed(1))


# --- all experts are the dense model -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [llama, opt])
def test_a_moefied_directory_is_the_dense_model_to_transformers(tmp_path: Path, family: Any) -> None:
    original = family(tmp_path / "model")
    out = made(tmp_path / "model", tmp_path / "out", {"moefy": {**BY_ROUTER["moefy"], "expert_size": 24}})
    theirs = transformers.AutoModelForCausalLM.from_pretrained(out)
    with torch.no_grad():
        expected, found, ours = original(tokens()).logits, theirs(tokens()).logits, load(out)(tokens())
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()
    before, after = (load(path).state_dict()["layers.0.ffn.up.weight"][:, 0] for path in (tmp_path / "model", out))
    assert not torch.equal(before, after) and torch.equal(before.sort().values, after.sort().values)


@pytest.mark.parametrize("kind", ["router", "planes"])
def test_a_threshold_below_every_score_computes_everything(stories: dict[str, Path], kind: str) -> None:
    model = load(stories[kind])
    dense = model(tokens())
    for name, value in model.named_buffers():
        if name.endswith(("thresholds", "compensation")):
            value.fill_(-1.0 if name.endswith("thresholds") else 0.0)
    account = model.compute_of([1, 1])
    sparse = model(tokens(), compute=account)
    tolerance = 1e-5 if kind == "router" else 0.02  # planes take activations in int8
    assert (sparse - dense).abs().max() <= tolerance * dense.abs().max()
    assert all(share == pytest.approx(1.0, abs=0.1) for row in account.spent.shares(40) for share in row)


def test_the_full_tier_of_bit_planes_is_the_int8_model_exactly(stories: dict[str, Path]) -> None:
    assert torch.equal(load(stories["planes"])(tokens()), load(stories["int8"])(tokens()))


# --- tiers ---------------------------------------------------------------------------------------------------------


def test_a_router_costs_its_stored_bytes_where_bf16_is_not_faster(
    stories: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = []
    for faster in (False, True):
        monkeypatch.setattr("moesaic.models.checkpoint.keeps_bf16", lambda device, faster=faster: faster)
        model = load(stories["router"])
        account = model.compute_of([2])
        model(tokens()[:1], compute=account)
        shares.append(account.spent.shares(40)[0][0])
    assert shares[0] == pytest.approx(shares[1], abs=0.02)


@pytest.mark.parametrize("kind", ["router", "planes"])
def test_a_tier_reads_its_share_of_bytes_on_text_it_was_not_set_on(stories: dict[str, Path], kind: str) -> None:
    for tier in open_checkpoint(stories[kind]).record.tiers:
        model = load(stories[kind], tier=tier.name)
        encoded = encode_documents(read_documents([embedded_text()], 2), Tokenizer.open(stories[kind]), 200)
        assert tier.calibrated["bytes_share"] == pytest.approx(tier.share, abs=0.01)
        assert score_documents(model, encoded).shares[0] == pytest.approx(tier.share, abs=0.1)
        assert score_documents(load(stories[kind]), encoded).shares == (1.0, 1.0)


@pytest.mark.parametrize("kind", ["router", "planes"])
def test_on_its_calibration_text_a_tier_gives_what_the_dense_ffn_gives_in_the_mean(
    stories: dict[str, Path], kind: str
) -> None:
    windows = Calibration(CalibrationSettings(sequences=12, length=48), open_checkpoint("stories260k")).windows
    looked_at = 0

    def look(index: int, ffn: FFN, given: Sequence[Tensor]) -> Constant:
        dense, scale = torch.cat([ffn.dense(x) for x in given]).mean((0, 1)), float(ffn.dense(given[0]).std())

        def compare(outputs: Sequence[Tensor]) -> Tensor:
            nonlocal looked_at
            looked_at += 1
            assert (torch.cat(list(outputs)).mean((0, 1)) - dense).abs().max() < 1e-3 * scale
            return torch.zeros_like(dense)

        return compare

    walk(load(stories[kind]), windows, look, operating_point=2)
    assert looked_at == 5


@pytest.mark.parametrize("kind", ["router", "planes"])
@pytest.mark.parametrize("share", [0.95, 0.9, 0.85, 0.8, 0.7, 0.6])
def test_any_share_reads_about_itself_and_hardly_more(stories: dict[str, Path], kind: str, share: float) -> None:
    windows = Calibration(CalibrationSettings(sequences=12, length=48), open_checkpoint("stories260k")).windows
    point = Dial.of(open_checkpoint(stories[kind]).record.tiers).operating_point(None, share)
    read, _ = walk(load(stories[kind]), windows, lambda *_: None, operating_point=point)
    assert 0.94 * share < read < 1.02 * share


@pytest.mark.parametrize("kind", ["router", "planes"])
def test_less_compute_is_a_worse_model_and_more_a_better_one(stories: dict[str, Path], kind: str) -> None:
    from moesaic.compress.judge import Judge
    from moesaic.compress.recipe import EvaluationSettings

    judge = Judge(open_checkpoint("stories260k"), EvaluationSettings(documents=4, truncate=128), lambda *_: None)
    scores = judge.scores("", open_checkpoint(stories[kind]), ["full", "high", "low"])
    found = {name: score.summary() for name, score in scores.items()}
    assert found["full"]["kl_nats_per_token"] < found["high"]["kl_nats_per_token"] < found["low"]["kl_nats_per_token"]
    assert 1 > found["high"]["bytes_share"] > found["low"]["bytes_share"]


@pytest.mark.parametrize("kind", ["router", "planes"])
def test_rows_of_any_tiers_in_one_batch_get_the_tokens_they_get_alone(stories: dict[str, Path], kind: str) -> None:
    model = load(stories[kind])
    draw = random.Random(0)
    requests = [
        Request(
            key, tuple([1, *draw.choices(range(3, 400), k=draw.randrange(1, 9))]), Sampling(temperature=0.0),
            Stopping(6, ignore_eos=True), operating_point=key % 3,
        )
        for key in range(150)
    ]  # fmt: skip
    together = finished(Engine(ModelRunner(model, 32, 32, torch.float32), num_slots=16), requests)
    alone = finished(Engine(ModelRunner(model, 2, 32, torch.float32), num_slots=1), requests)
    assert together == alone and len(together) == 150
    assert len({tuple(answer) for answer in together.values()}) > 50


def test_a_row_of_planes_has_the_same_bits_beside_rows_of_other_tiers(stories: dict[str, Path]) -> None:
    if plane_isa(library()) == "portable":
        pytest.skip("this processor has no vector instructions for planes, and torch rounds by the place in a vector")
    model = load(stories["planes"])
    ffn, draw = model.layers[0].ffn, random.Random(0)
    assert isinstance(ffn, PlaneFFN) and ffn.planes.packed is not None
    for count in range(1, 12):
        tiers = draw.choices(range(3), k=count)
        x = torch.randn(count, draw.randrange(1, 5), ffn.hidden_size, generator=torch.Generator().manual_seed(count))
        account = model.compute_of(tiers)
        together = ffn(x, account)
        for row in (row for row in range(count) if tiers[row]):
            own = model.compute_of(tiers[row : row + 1])
            assert torch.equal(ffn(x[row : row + 1], own)[0], together[row])
            assert own.spent.shares(x.shape[1])[0] == account.spent.shares(x.shape[1])[row]


def finished(engine: Engine, requests: list[Request]) -> dict[int, list[int]]:
    answers: dict[int, list[int]] = {}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for row in engine.step():
            answers.setdefault(row.key, []).extend(row.token_ids)
    return answers


def test_usage_says_tier_and_shares(stories: dict[str, Path]) -> None:
    llm = LLM(stories["planes"])
    full, low = (llm.generate("Once upon", max_new_tokens=8, temperature=0, tier=tier)[0] for tier in (None, "low"))
    assert full.usage.tier_used == "full" and full.usage.bytes_share == pytest.approx(1.0)
    assert low.usage.tier_used == "low" and low.usage.bytes_share == pytest.approx(0.5, abs=0.15)
    assert low.usage.neurons_share is not None and 0 < low.usage.neurons_share < 1
    assert LLM("stories260k").generate("Once", max_new_tokens=2)[0].usage.bytes_share is None


@pytest.mark.parametrize(("kind", "tier"), [("planes", "lowest"), ("int8", "low")])
def test_a_tier_that_the_model_does_not_have_is_refused_with_the_list(
    stories: dict[str, Path], kind: str, tier: str
) -> None:
    with pytest.raises(Unsupported, match="tiers: full"):
        LLM(stories[kind]).generate("Once", tier=tier)
    with pytest.raises(Unsupported, match="tiers: full"):
        load(stories[kind], tier=tier)


@pytest.mark.parametrize("stages", [[{"moefy": {"router_width": 8}}], [{"moefy": {"router": "bit_planes"}}, INT8]])
def test_a_tier_reads_its_share_where_the_last_expert_is_smaller(tmp_path: Path, stages: Any) -> None:
    first = {"moefy": {**stages[0]["moefy"], "expert_size": 171, "tiers": {"low": 0.75}}}  # of 172: 171 and 1
    (tier,) = open_checkpoint(made("stories260k", tmp_path / "out", first, *stages[1:])).record.tiers
    assert tier.bytes_share == pytest.approx(0.75, rel=0.05)


@pytest.mark.parametrize("stages", [[BY_ROUTER], [BY_PLANES, INT8]])
def test_dead_neurons_and_one_that_always_fires_make_tiers_too(tmp_path: Path, stages: Any) -> None:
    model = opt(tmp_path / "model")
    with torch.no_grad():
        for layer in model.model.decoder.layers:
            layer.fc1.weight[:5], layer.fc1.bias[:5], layer.fc1.bias[5] = 0.0, -1.0, 50.0
    model.save_pretrained(tmp_path / "model")
    out = made(tmp_path / "model", tmp_path / "out", *stages)
    low, full = (load(out, tier=tier)(tokens()) for tier in ("low", "full"))
    assert low.isfinite().all() and not torch.equal(low, full)
    assert open_checkpoint(out).record.tiers[-1].bytes_share == pytest.approx(0.5, abs=0.06)


# --- what cannot be ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([BY_PLANES], "add `- quantize: {linears: int8}` to the stages"),
        (
            [{"moefy": {"router": "bit_planes", "bits": 5, "refined_bits": 4}}, INT8],
            "refined_bits is 4, .* more than bits, 5",
        ),
        (
            [{"moefy": {"router": "bit_planes", "tiers": {"high": 0.95}}}, INT8],
            "6 bits of every neuron are 0.... of them",
        ),
        ([BY_ROUTER, BY_ROUTER], "has experts already; start from the model before"),
        ([BY_ROUTER, {"prune": {"remove": 0.1}}], "prune first"),
        ([INT8, {"distill": {"tokens": 10}}], "distill before quantize"),
        ([INT8, INT8], "int8 already"),
        ([{"moefy": {"expert_size": 500}}], "widest FFN has 172 neurons; lower it"),
        (
            [{"moefy": {"router": "bit_planes"}}],
            "reads int8 weights, .* add .- quantize: {linears: int8}. to the stages",
        ),
        ([{"moefy": {}}], "layers.0.attention.query is dense, .* add .- quantize: {linears: int8}. to the stages"),
        ([{"moefy": {"expert_size": 64, "tiers": {"low": 0.001}}}], "the router alone reads"),
        ([{"moefy": {"expert_size": 64, "router_width": 1, "tiers": {"low": 0.005}}}, INT8], "the router alone reads"),
        (
            [{"moefy": {"router": "bit_planes", "bits": 2, "tiers": {"low": 0.2377}}}, INT8],
            "the router alone reads 0.24",
        ),
        ([{"moefy": {"tiers": {"full": 0.5}}}], "cannot name a tier"),
        ([{"moefy": {"tiers": {"low": 1.5}}}], "between 0 and 1"),
        ([{"moefy": {"tiers": {}}}], "names no tier"),
        ([{"prune": {"remove": 0.99}}], "remove"),
    ],
)
def test_stages_that_make_no_sense_are_refused_before_any_work(tmp_path: Path, stages: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        made("stories260k", tmp_path / "out", *stages)
    assert not (tmp_path / "out").exists()


def test_a_model_with_tiers_is_not_compressed_again(stories: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="before it was MoEfied"):
        made(stories["router"], tmp_path / "out", INT8)


def test_tiers_of_an_earlier_format_or_of_impossible_bits_are_refused(stories: dict[str, Path], tmp_path: Path) -> None:
    router = shutil.copytree(stories["router"], tmp_path / "router")
    edit_json(router / "moesaic.json", format=2)
    with pytest.raises(CheckpointError, match="format 2, whose tiers of norm_regression .* compress the model again"):
        open_checkpoint(router)
    copy = shutil.copytree(stories["planes"], tmp_path / "copy")
    edit_json(copy / "moesaic.json", format=1)
    with pytest.raises(CheckpointError, match="has format 1, whose tiers of bit_planes .* compress the model again"):
        open_checkpoint(copy)
    spec = dict(open_checkpoint(stories["planes"]).record.spec)
    edit_json(copy / "moesaic.json", format=2, spec={**spec, "layers.*.ffn.experts.refined_bits": 2})
    with pytest.raises(CheckpointError, match="3 bits route and 2 refine, it must be 1 to 8 and rising"):
        open_checkpoint(copy)


def test_an_experts_file_that_is_missing_or_another_is_told(stories: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(stories["router"], tmp_path / "copy")
    edit_json(copy / "moesaic.json", tiers=[])
    with pytest.raises(CheckpointError, match="names 0 tiers for a spec of 2"):
        open_checkpoint(copy)
    edit_json(copy / "moesaic.json", tiers=[{"name": name, "share": 0.5, "calibrated": {}} for name in TIERS])
    with pytest.raises(CheckpointError, match="damaged .tier 'high' lacks active_by_layer, bytes_share"):
        open_checkpoint(copy)
    shutil.copy(stories["router"] / "moesaic.json", copy)
    (copy / "moesaic" / "experts.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lack layers.0.ffn.thresholds"):
        open_checkpoint(copy)
