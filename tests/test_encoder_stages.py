"""Every stage on models with an encoder: what tiers compute, what is measured, what a killed run goes on from."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_cases import ENCODER_CASES
from source_cases import SOURCE_CASES

from moesaic.bench.local_server import local_server
from moesaic.cli.main import main
from moesaic.compress.answers import SourceAnswers
from moesaic.compress.calibration import Calibration, CalibrationSettings
from moesaic.compress.distill.student import Student
from moesaic.compress.export import export
from moesaic.compress.moefy.importance import gradients
from moesaic.compress.moefy.steps import StepScores
from moesaic.compress.pipeline import compress
from moesaic.compress.windows import Batch, batched, num_tokens
from moesaic.engine.encoder import embed
from moesaic.engine.llm import LLM
from moesaic.engine.request import Request
from moesaic.evaluate.embeddings import Retrieval, Vectors, score_vectors
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.errors import CheckpointError, RecipeError, TextError, Unsupported
from moesaic.models.ffn.planes import PlaneFFN
from moesaic.models.tokenizer import Tokenizer
from moesaic.models.transformer import Layer
from moesaic.server.client import Client

INT8: dict[str, Any] = {"quantize": {"linears": "int8"}}
PLANES: dict[str, Any] = {"moefy": {"grain": "neurons", "tiers": {"low": 0.55}}}
TILES: dict[str, Any] = {"moefy": {"expert_size": 8, "tiers": {"low": 0.6}}}
INPUTS: dict[str, Any] = {"moefy": {"grain": "inputs", "tiers": {"low": 0.65}}}
PRUNE: dict[str, Any] = {"prune": {"remove": 0.2}}
DISTILL: dict[str, Any] = {"distill": {"tokens": 256, "lr": 1e-4, "batch": 4, "save_every": 1}}
OF_SOURCES = ("t5", "bart", "marian")
KINDS = ("bert", "roberta", "xlm-roberta", "distilbert", "mpnet", *OF_SOURCES)
LINE = "The dog ran far away and Tom ran after it until the night came and the moon was bright over the {} hills. "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each kind by its name, plain and gated, and two texts."""
    where = tmp_path_factory.mktemp("stages")
    for kind in KINDS:
        cases = SOURCE_CASES if kind in OF_SOURCES else ENCODER_CASES
        next(case for case in cases if case.family == kind).build(where / kind)
    gated = next(case for case in SOURCE_CASES if case.changes.get("feed_forward_proj") == "gated-gelu")
    gated.build(where / "t5-gated")
    documents = ["".join(LINE.format(f"{a} {b}") for b in range(6)) for a in ("green", "blue", "far", "old", "cold")]
    (where / "text.txt").write_text("\n<|endoftext|>\n".join(documents))
    return where


def recipe(folder: Path, *stages: dict[str, Any]) -> dict[str, Any]:
    text = [str(folder / "text.txt")]
    calibration = {"text": text, "sequences": 8, "length": 32}
    return {"calibration": calibration, "evaluation": {"text": text}, "stages": list(stages)}


def run(folder: Path, kind: str, name: str, *stages: dict[str, Any]) -> Any:
    return compress(folder / kind, folder / f"{kind}-{name}", recipe(folder, *stages))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "name", "stages"),
    [
        ("bert", "planes", (PLANES, INT8)), ("bert", "tiles", (TILES,)), ("bert", "inputs", (INPUTS, INT8)),
        ("mpnet", "planes", (PLANES, INT8)), ("t5", "planes", (PLANES, INT8)), ("t5-gated", "tiles", (TILES,)),
        ("t5-gated", "inputs", (INPUTS, INT8)), ("bart", "planes", (PLANES, INT8)),
    ],
)  # fmt: skip
def test_a_tier_reads_what_it_was_set_to_and_is_what_is_served(
    kind: str, name: str, stages: tuple[dict[str, Any], ...], folder: Path
) -> None:
    done = run(folder, kind, name, *stages)
    (tier,) = open_checkpoint(done.out).record.tiers
    assert abs(tier.calibrated["bytes_share"] - tier.share) < 0.03 and done.tiers["low"]["bytes_share"] < 0.85
    out, ids = done.out, torch.arange(24) * 5 % 250
    if open_checkpoint(out).spec.reads_sources:
        llm = LLM(out)
        shares = [
            llm.generate([ids.tolist()], max_new_tokens=6, temperature=0, tier=each)[0].usage.bytes_share
            for each in ("full", "low")
        ]
        assert shares[0] == 1 and shares[1] is not None and shares[1] < 0.85
        return
    states = [load(out, tier)(ids.unsqueeze(0))[0].mean(0) for tier in ("full", "low")]
    assert not torch.allclose(states[0], states[1], atol=1e-6)
    requests = [Request(0, tuple(ids.tolist()), operating_point=float(point)) for point in (0, 1)]
    for vector, expected in zip(embed(load(out), requests), states, strict=True):
        assert torch.allclose(vector, torch.nn.functional.normalize(expected, dim=0), atol=1e-5)
    served = LLM(out).embed([ids.tolist()], normalised=False, tier="low")[0].values
    assert torch.allclose(torch.tensor(served), states[1], atol=1e-3)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["bert", "roberta", "xlm-roberta", "distilbert", "t5", "marian"])
def test_all_four_stages_run_in_one_recipe_and_are_inspected(
    kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done, plain = run(folder, kind, "all", PRUNE, DISTILL, PLANES, INT8), folder / f"{kind}-plain"
    spec = open_checkpoint(done.out).spec
    sides = [spec, *([spec.encoder] if spec.encoder else [])]
    before = [open_checkpoint(folder / kind).spec]
    before += [before[0].encoder] if before[0].encoder else []
    widths, whole = (sum(layer.ffn.width for side in of for layer in side.layers) for of in (sides, before))
    assert round(0.8 * whole) == widths
    assert done.bytes_after < 0.5 * done.bytes_before and done.tiers["low"]["bytes_share"] < 0.65
    assert main(["inspect", str(done.out)]) == 0
    shown = capsys.readouterr().out
    assert "low" in shown and ("same answers" if kind in OF_SOURCES else "found first") in shown
    if kind in OF_SOURCES:
        with pytest.raises(CheckpointError, match="cannot say what this model is .its FFN widths"):
            export(done.out, plain, dtype="float32")
        return
    export(done.out, plain, dtype="float32")
    ids = torch.arange(3, 23).unsqueeze(0)
    assert torch.allclose(load(plain)(ids), load(done.out)(ids), atol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_a_killed_distillation_ends_as_one_that_ran_through(
    kind: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = recipe(folder, DISTILL)
    monkeypatch.setenv("MOESAIC_CACHE", str(tmp_path / "one"))
    compress(folder / kind, tmp_path / "whole", stages)
    monkeypatch.setenv("MOESAIC_CACHE", str(tmp_path / "two"))
    saved = Student.save

    def killed(self: Student, where: Path) -> None:
        saved(self, where)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Student, "save", killed)
        compress(folder / kind, tmp_path / "resumed", stages)
    compress(folder / kind, tmp_path / "resumed", stages)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "resumed"))
    assert first == second


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_distillation_brings_a_pruned_model_nearer(kind: str, folder: Path) -> None:
    long = {"distill": {"tokens": 4096, "lr": 1e-3, "batch": 4}}
    done = run(folder, kind, "long", {"prune": {"remove": 0.6, "compensate": False}}, long)
    notes = open_checkpoint(done.out).record.stages[-1].notes
    assert notes["last_loss"] < 0.8 * notes["first_loss"]


def test_gradients_of_an_encoder_are_those_of_autograd(folder: Path) -> None:
    model, ids = load(folder / "bert"), torch.arange(10).unsqueeze(0) * 7 % 250
    found = list(gradients(model, Batch(ids), torch.Generator().manual_seed(3)))[::-1]
    off = torch.randn((1, 10, model.spec.hidden_size), generator=torch.Generator().manual_seed(3))
    made = list[torch.Tensor]()
    hooks = [
        layer.ffn.register_forward_hook(lambda _, __, y: made.append(y))
        for layer in model.layers
        if isinstance(layer, Layer)
    ]
    x, turns = model.embed(ids)
    x = x.requires_grad_()
    for layer in model.layers:
        assert isinstance(layer, Layer)
        x = layer(x, turns, model.context_of(ids))
    expected = torch.autograd.grad((x * off).sum(), made)
    for hook in hooks:
        hook.remove()
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.allclose(mine, theirs[0], atol=1e-5, rtol=1e-4)


@pytest.fixture
def answers(folder: Path) -> Iterator[tuple[Calibration, SourceAnswers]]:
    source = open_checkpoint(folder / "t5")
    calibration = Calibration(CalibrationSettings(text=[str(folder / "text.txt")], sequences=5, length=24), source)
    yield calibration, calibration.answers


def test_what_a_decoder_is_looked_at_on_is_what_the_engine_answers(
    folder: Path, answers: tuple[Calibration, SourceAnswers]
) -> None:
    calibration, known = answers
    llm, (first, *_) = LLM(folder / "t5"), calibration.windows
    batch, counts = known.padded(first.unsqueeze(0), torch.device("cpu"))
    answer = llm.generate([first.tolist()], max_new_tokens=32, temperature=0)[0]
    assert batch.ids[0, 1:].tolist() == list(answer.token_ids)[: batch.ids.shape[1] - 1] and counts.all()


def test_answers_lose_no_row_when_they_go_in_batches(answers: tuple[Calibration, SourceAnswers]) -> None:
    calibration, known = answers
    windows = known.to_all(calibration.windows, torch.device("cpu"))
    batches = list(batched(windows, 1))
    rows = {tuple(each.sources[0].tolist()) for each in batches if each.sources is not None}
    assert len(batches) == 5 and rows == set(map(tuple, calibration.windows.tolist()))
    assert num_tokens(windows) == sum(each.ids.numel() for each in batches)


def test_windows_of_an_encoder_begin_and_end_as_its_texts_do(folder: Path) -> None:
    source = open_checkpoint(folder / "bert")
    before, behind = Tokenizer.open(source.path).around
    for row in Calibration(CalibrationSettings(text=[str(folder / "text.txt")], length=24), source).windows.tolist():
        assert tuple(row[: len(before)]) == before and tuple(row[len(row) - len(behind) :]) == behind


@pytest.mark.parametrize(
    ("kind", "stages", "words"),
    [
        ("bert", [{"distill": {"tokens": 64, "losses": {"logits": 1.0}}}], "distill: losses.logits is of logits"),
        ("bert", [{"distill": {"tokens": 64, "temperature": 2.0}}], "distill: temperature is of logits"),
        ("t5", [{"relufy": {"tokens": 64}}], "name one activation for both, and it changes the decoder's alone"),
        ("t5", [{"distill": {"tokens": 64, "at": {"share": 0.6}}}, PLANES, INT8], "leave at out, and the model learns"),
        ("bert", [PLANES], "moefy: the router bit_planes reads int8 weights"),
    ],
)
def test_what_a_stage_cannot_do_is_refused_with_its_name_and_the_way_out(
    kind: str, stages: list[dict[str, Any]], words: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=words):
        compress(folder / kind, tmp_path / "out", recipe(folder, *stages))
    assert not (tmp_path / "out").exists()


def test_one_document_ranks_nothing_and_is_refused(folder: Path, tmp_path: Path) -> None:
    settings = recipe(folder, INT8)
    settings["evaluation"]["documents"] = 1
    with pytest.raises(TextError, match="1 of 1 documents can be halved"):
        compress(folder / "bert", tmp_path / "out", settings)


def test_a_dry_run_tells_of_every_stage_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(recipe(folder, PRUNE, DISTILL, TILES)))
    for kind in ("bert", "t5"):
        found = compress(folder / kind, tmp_path / "out", recipe(folder, PRUNE, DISTILL, TILES), dry_run=True)
        assert [each.stage for each in found.estimates] == ["prune", "distill", "moefy", "calibrate"]
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_answers_of_unlike_length_stand_in_one_step(folder: Path) -> None:
    ffn = load(run(folder, "t5", "planes", PLANES, INT8).out).layers[0].ffn
    assert isinstance(ffn, PlaneFFN)
    steps, hidden = StepScores(ffn), ffn.down.weight.shape[0]
    for passages, tokens in ((3, 9), (5, 5), (1, 21)):
        steps.add(ffn.plane_scores(torch.randn(passages, tokens, hidden)))
    steps.finish()
    read, whole = steps.spent(8, 0.0) or (0.0, 0.0)
    assert 0 < read <= whole


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_curves_of_a_model_with_an_encoder_are_drawn_once_and_say_what_was_read(
    kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, out = str(folder / "text.txt"), tmp_path / "curves"
    command = ["retention", str(folder / kind), "--text", text, "--calibration-text", text, "--length", "32"]
    command += ["--calibration", "4", "--windows", "3", "--share", "0.55", "--out", str(out)]
    command += ["--only", "MLP, top-k", "high 4 bits", "FLAP", "int4"]
    assert main(command) == 0
    found = json.loads((out / "encoder.json").read_text())
    points = {point["method"]: point for point in found["points"]}
    assert set(points) >= {"experts of 32, co-activation, MLP, top-k", "high 4 bits, then 6", "FLAP pruning"}
    measured = {name: point for name, point in points.items() if not point["reason"]}
    fine = {name for name in measured if "experts" not in name}  # of which a layer has three
    int4 = {f"int4 {how}, groups of {size}" for how in ("by GPTQ", "to nearest") for size in (32, 128)}
    assert fine == {"high 4 bits, then 6", "FLAP pruning", *int4}
    assert all(0.4 < measured[name]["bytes_share"] <= 0.62 for name in fine)
    items = {len(column) for column in found["dense"]["columns"].values()}
    assert items == ({3} if kind == "t5" else {3, 6})
    lines = (next(out.glob("points-*.jsonl"))).read_text()
    assert main(command) == 0 and next(out.glob("points-*.jsonl")).read_text() == lines
    assert "experts of 32" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_served_encoder_embeds_at_the_tier_that_is_asked(folder: Path) -> None:
    out = run(folder, "bert", "planes", PLANES, INT8).out
    llm, ids = LLM(out), list(range(3, 23))
    with local_server({"bert": out}) as address, Client(address) as client:
        for tier in ("full", "low"):
            found, expected = client.embed([ids], tier=tier)[0], llm.embed([ids], tier=tier)[0]
            assert torch.allclose(torch.tensor(found.values), torch.tensor(expected.values), atol=1e-5)
        assert client.embed([ids])[0].values == client.embed([ids], tier="full")[0].values
        with pytest.raises(Unsupported, match="'lowest' is not among this model's tiers: full, low"):
            client.embed([ids], tier="lowest")


def test_eval_scores_an_encoder_beside_its_original_on_documents_and_on_pairs(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.jsonl"
    lines = [{"source": f"a {each}", "target": f"the {each} ran"} for each in ("dog", "cat")]
    pairs.write_text("\n".join(map(json.dumps, lines)))
    for file, count in ((folder / "text.txt", 5), (pairs, 2)):
        command = ["eval", str(folder / "bert"), "--against", str(folder / "bert"), "--text", str(file)]
        assert main([*command, "--json", str(tmp_path / "found.json")]) == 0
        found = json.loads((tmp_path / "found.json").read_text())
        assert len(found["scores"]["model"]["ranks"]) == count and found["mean_cosine"] > 0.9999
        assert found["comparisons"]["recall_at_1"]["difference"] == 0
    assert "no difference shown" in capsys.readouterr().out
    assert main(["eval", str(folder / "bert"), "--stride", "4"]) == 2
    assert "--stride is of models that continue text" in capsys.readouterr().err


def test_queries_find_their_passages_where_vectors_say_so() -> None:
    vectors = torch.eye(4)[[0, 0, 1, 1, 2, 3]]  # the third query is as near to every passage: it has none of its own
    material = Retrieval.of_pairs([((i,), (i,)) for i in range(3)])
    found = score_vectors(Vectors(vectors, (1.0, 1.0)), material)
    assert found.ranks == (1, 1, 2) and found.summary()["recall_at_1"] == pytest.approx(2 / 3)
