"""Retention as served: what is scored over gRPC is what the same model gives in this process, tier by tier."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import llama
from safetensors.torch import load_file, save_file

from moesaic.bench.compare import compared
from moesaic.bench.evidence.own import write_own
from moesaic.bench.served.run import RetentionPlan, kept_of, run_retention
from moesaic.bench.served.score import Window, windows_of
from moesaic.cli.main import main
from moesaic.compress.pipeline import compress
from moesaic.engine.scoring import Reader
from moesaic.evaluate.texts import embedded_text, encode_documents, read_documents
from moesaic.models.checkpoint import load_transformer, open_checkpoint
from moesaic.models.errors import SetupError, TextError
from moesaic.models.locate import locate
from moesaic.models.tokenizer import Tokenizer

LENGTH, HELD, WINDOWS = 64, 24, 3
NOISE = 0.2  # of a weight's deviation, in one matrix of one layer: a hundredth of top-1 is lost


def plan(out: Path, models: dict[str, str], **more: Any) -> RetentionPlan:
    return RetentionPlan(models, out, windows=WINDOWS, length=LENGTH, held=HELD, threads=1, command="as typed", **more)


def run(asked: RetentionPlan) -> dict[str, Any]:
    return run_retention(
        asked, lambda: {"device": "x", "processors": 1, "versions": {}, "commit": None}, lambda *said: None
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("tiers") / "model"
    compress("stories260k", out, {
        "calibration": {"sequences": 8, "length": 48}, "evaluation": {"documents": 1, "truncate": 24},
        "stages": [
            {"moefy": {"expert_size": 1, "router": "bit_planes", "tiers": {"high": 0.7, "low": 0.48}}},
            {"quantize": {"linears": "int8"}},
        ],
    })  # fmt: skip
    return {"original": "stories260k", "tiers": str(out)}


@pytest.fixture(scope="module")
def report(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(plan(tmp_path_factory.mktemp("kept") / "kept.json", models))


def in_this_process(path: Path, tier: str, window: Window) -> tuple[float, int]:
    """Nats and right tokens of a window, by the reader that evaluations use."""
    checkpoint = open_checkpoint(path)
    model = load_transformer(checkpoint, torch.device("cpu"))
    model.operating_point = checkpoint.operating_point(tier)
    reader = Reader(model, len(window.ids))
    states = reader.read(window.ids, 0, window.held)
    logits = reader.head(states[window.held - 1 : -1]).double().log_softmax(-1)
    targets = torch.tensor(window.ids[window.held :])
    return -float(logits.gather(1, targets[:, None]).sum()), int((logits.argmax(-1) == targets).sum())


@pytest.mark.parametrize(("place", "within"), [(0, 1e-3), (-1, 0.02)], ids=["full", "lowest"])
def test_what_is_served_is_what_is_scored_in_this_process(
    report: dict[str, Any], models: dict[str, str], place: int, within: float
) -> None:
    """Evaluations go module by module, a server by one call, whose rounding moves neurons across their thresholds."""
    tier = report["models"]["tiers"]["tiers"][place]
    documents = encode_documents(read_documents([embedded_text()]), Tokenizer.open(locate("stories260k")))
    for window, nats, right in zip(windows_of(documents, LENGTH, HELD, WINDOWS), *kept(tier), strict=True):
        ours, ours_right = in_this_process(Path(models["tiers"]), tier["tier"], window)
        assert ours == pytest.approx(nats, rel=within) and abs(ours_right - right) <= 2 * (place != 0)


def kept(tier: dict[str, Any]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    found = kept_of(tier)
    return found.nats, found.right


def test_lower_tiers_read_less_and_choose_otherwise(report: dict[str, Any]) -> None:
    tiers = report["models"]["tiers"]["tiers"]
    sizes = [tier["token_bytes"] for tier in tiers]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    assert len({tier["nats"]["value"] for tier in tiers}) == len(tiers)


def test_the_original_is_equal_to_itself(report: dict[str, Any]) -> None:
    full = report["models"]["original"]["tiers"][0]
    assert full["relative_top1"]["value"] == full["relative_perplexity"]["value"] == 1.0


def test_a_run_that_was_cut_off_goes_on(report: dict[str, Any], models: dict[str, str], tmp_path: Path) -> None:
    part = json.loads(json.dumps({**report, "complete": False}))
    del part["models"]["tiers"]["tiers"][1:]
    asked = plan(tmp_path / "kept.json", models)
    asked.out.write_text(json.dumps({**part, "plan": asked.key}))
    again = run(asked)
    assert again["complete"] and not [each for each in compared(report, again, 0.0) if each.sign]


def scored(model: Path, out: Path) -> Path:
    words = ["bench", "retention", f"model={model}", "--length", "128", "--context", "32", "--windows", "60"]
    assert main([*words, "--threads", "1", "--out", str(out)]) == 0
    return out


def test_a_layer_that_loses_a_hundredth_is_found_and_a_sound_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = locate("stories260k")
    shutil.copytree(sound, tmp_path / "planted")
    tensors = load_file(file := tmp_path / "planted/model.safetensors")
    name = "model.layers.2.mlp.down_proj.weight"
    noise = torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(0))
    save_file({**tensors, name: tensors[name] + NOISE * tensors[name].std() * noise}, file, {"format": "pt"})
    before, again, after = (
        str(scored(model, tmp_path / f"{i}.json")) for i, model in enumerate((sound, sound, tmp_path / "planted"))
    )
    top1 = [
        json.loads(Path(each).read_text())["models"]["model"]["tiers"][0]["top1"]["value"] for each in (before, after)
    ]
    assert 0.98 < top1[1] / top1[0] < 1.0
    assert main(["bench", "compare", before, again]) == 0
    assert main(["bench", "compare", before, after]) == 1
    assert "models model tiers 0 nats" in capsys.readouterr().out


def test_a_page_shows_every_tier(report: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text(json.dumps(report))
    write_own([tmp_path / "kept.json"], tmp_path / "kept.html")
    page = (tmp_path / "kept.html").read_text()
    assert page.count("<img") == 1 and all(tier["tier"] in page for tier in report["models"]["tiers"]["tiers"])


def test_text_that_is_too_short_is_told(tmp_path: Path) -> None:
    (text := tmp_path / "short.txt").write_text("Once upon a time.")
    with pytest.raises(TextError, match="no document has 64 tokens"):
        run(plan(tmp_path / "x.json", {"a": "stories260k"}, text=(str(text),)))


def test_models_that_read_text_otherwise_are_not_compared(tmp_path: Path) -> None:
    llama(tmp_path / "other")
    with pytest.raises(SetupError, match="b reads text as other tokens than a"):
        run(plan(tmp_path / "x.json", {"a": "stories260k", "b": str(tmp_path / "other")}))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--context", "256"], "context is 256"),
        (["--length", "1"], "length is 1"),
        (["--windows", "0"], "windows is 0"),
        (["stories260k"], "two models are called stories260k"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "retention", "stories260k", *words, "--out", str(tmp_path / "x.json")]) == 2
    assert told in capsys.readouterr().err
