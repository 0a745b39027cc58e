"""Retention as served: what is scored over gRPC is what the same model gives in this process, tier by tier."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import llama

from moesaic.bench.compare import compared
from moesaic.bench.evidence.own import write_own
from moesaic.bench.served.int4 import NEAREST, RECORD, Rounding, make_int4
from moesaic.bench.served.page import notes
from moesaic.bench.served.plan import RetentionPlan
from moesaic.bench.served.planted import main as planted
from moesaic.bench.served.run import run_retention
from moesaic.bench.served.score import Window, windows_of
from moesaic.cli.main import main
from moesaic.compress.pipeline import compress
from moesaic.engine.scoring import Reader
from moesaic.evaluate.tasks.answer import answer, encode_questions
from moesaic.evaluate.tasks.files import read_task
from moesaic.evaluate.texts import embedded_text, encode_documents, read_documents
from moesaic.models.checkpoint import load_transformer, open_checkpoint
from moesaic.models.errors import SetupError, TextError
from moesaic.models.locate import locate
from moesaic.models.tokenizer import Tokenizer

LENGTH, HELD, WINDOWS, PLACES = 64, 24, 3, 10
QUESTIONS = [
    {"query": "The dog was very", "choices": ["happy", "blue and green", "Tuesday"], "gold": 0},
    {"context": "Once upon a", "continuation": "time"},
    {"context_options": ["She was sad.", "He had a big red ball."], "continuation": "He played with it.", "gold": 1},
]
Told = Callable[[str, int, int], None]
NOISE = 0.15  # of a weight's deviation, in one matrix of one layer: a hundredth of top-1 is lost


def plan(out: Path, models: dict[str, str], **more: Any) -> RetentionPlan:
    named = {name: (path,) for name, path in models.items()}
    sizes: dict[str, Any] = {"windows": WINDOWS, "length": LENGTH, "held": HELD, "places": PLACES}
    return RetentionPlan(named, out, threads=1, command="as typed", **sizes, **more)


def run(asked: RetentionPlan, told: Told = lambda *said: None) -> dict[str, Any]:
    return run_retention(asked, lambda: {"device": "x", "processors": 1, "versions": {}, "commit": None}, told)


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
    make_int4("stories260k", out.with_name("int4"), Rounding(NEAREST))
    return {"original": "stories260k", "tiers": str(out), "int4": str(out.with_name("int4"))}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("tasks") / "small.jsonl"
    file.write_text("\n".join(map(json.dumps, QUESTIONS)))
    return str(file)


@pytest.fixture(scope="module")
def report(models: dict[str, str], task: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run(plan(tmp_path_factory.mktemp("kept") / "kept.json", models, tasks=(task,)))


def reader(path: str, tier: str) -> Reader:
    checkpoint = open_checkpoint(path)
    model = load_transformer(checkpoint, torch.device("cpu"))
    model.operating_point = checkpoint.operating_point(tier)
    return Reader(model, LENGTH)


def foreseen(reader: Reader, window: Window) -> torch.Tensor:
    """ln p of what comes at each scored token, by the reader that evaluations use."""
    states = reader.read(window.ids, 0, window.held)
    return reader.head(states[window.held - 1 : -1]).double().log_softmax(-1)


def windows() -> list[Window]:
    documents = encode_documents(read_documents([embedded_text()]), Tokenizer.open(locate("stories260k")))
    return windows_of(documents, LENGTH, HELD, WINDOWS, PLACES)


@pytest.mark.parametrize(("place", "within"), [(0, 1e-3), (-1, 0.02)], ids=["full", "lowest"])
def test_what_is_served_is_what_is_scored_in_this_process(
    report: dict[str, Any], models: dict[str, str], place: int, within: float
) -> None:
    """Evaluations go module by module, a server by one call, whose rounding moves neurons across their thresholds."""
    tier = report["models"]["tiers"]["tiers"][place]
    items = [[brought for brought, _ in tier[name]["items"]] for name in ("nats", "top1", "kl")]
    ours, original = reader(models["tiers"], tier["tier"]), reader("stories260k", "full")
    for window, nats, right, kl in zip(windows(), *items, strict=True):
        q, p = foreseen(ours, window), foreseen(original, window)
        targets = torch.tensor(window.ids[window.held :])
        assert -float(q.gather(1, targets[:, None]).sum()) == pytest.approx(nats, rel=within)
        assert abs(int((q.argmax(-1) == targets).sum()) - right) <= 2 * (place != 0)
        at = list(window.places)
        assert len(at) == PLACES
        assert float((p[at].exp() * (p[at] - q[at])).sum()) == pytest.approx(kl, rel=10 * within, abs=1e-4)


@pytest.mark.parametrize(("name", "tier"), [("original", "full"), ("tiers", "full"), ("int4", "full")])
def test_questions_are_answered_as_in_this_process(
    report: dict[str, Any], models: dict[str, str], task: str, name: str, tier: str
) -> None:
    asked = read_task(task)
    encoded = encode_questions(asked.questions, Tokenizer.open(locate("stories260k")))
    here = answer(asked, encoded, reader(models[name], tier))
    found = report["models"][name]["tiers"][0]["tasks"]["small"]
    assert [brought for brought, _ in found["score"]["items"]] == [*map(float, here.correct["raw"])]
    assert found["chance"] == here.chance
    assert report["kept"][name][0]["tasks"]["small"]["above_chance"] == pytest.approx(here.above_chance(), abs=1e-4)


def test_a_control_is_counted_as_it_would_be_packed(report: dict[str, Any], models: dict[str, str]) -> None:
    said = json.loads((Path(models["int4"]) / RECORD).read_text())
    [kept] = report["kept"]["int4"]
    assert kept["token_bytes"] == said["token_bytes"] < report["kept"]["tiers"][0]["token_bytes"]
    assert kept["kl"]["value"] > report["kept"]["tiers"][0]["kl"]["value"] > 0


def test_lower_tiers_read_less_and_choose_otherwise(report: dict[str, Any]) -> None:
    tiers = report["models"]["tiers"]["tiers"]
    sizes = [tier["token_bytes"] for tier in tiers]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > sizes[-1]
    assert len({tier["nats"]["value"] for tier in tiers}) == len(tiers)


def test_the_original_is_equal_to_itself(report: dict[str, Any]) -> None:
    [full] = report["kept"]["original"]
    assert full["relative_top1"]["value"] == full["relative_perplexity"]["value"] == 1.0
    assert full["kl"]["value"] == full["tasks"]["small"]["difference"]["value"] == 0.0


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> "list[subprocess.Popen[str]]":
    """Those that were started, the newest last."""
    started = list[subprocess.Popen[str]]()

    class Recorded(subprocess.Popen[str]):
        def __init__(self, *args: Any, **more: Any) -> None:
            super().__init__(*args, **more)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    return started


def test_a_server_that_dies_is_told_of_and_the_same_command_goes_on(
    report: dict[str, Any],
    models: dict[str, str],
    task: str,
    tmp_path: Path,
    servers: "list[subprocess.Popen[str]]",
) -> None:
    def killed(what: str, done: int, total: int) -> None:
        if what == "tiers, high" and done == 1:
            servers[-1].kill()

    asked = plan(tmp_path / "kept.json", models, tasks=(task,))
    part = run(asked, killed)
    said = part["models"]["tiers"]
    assert not part["complete"] and len(said["tiers"]) == 1 and said["stopped"]
    assert part["models"]["int4"]["tiers"] and len(part["kept"]["tiers"]) == 1
    assert any(f"tiers is not whole: {said['stopped']}" == line for line in notes(part))
    again = run(asked)
    assert again["complete"] and not [each for each in compared(report, again, 0.0) if each.sign]
    assert again["kept"]["tiers"][-1]["kl"] == report["kept"]["tiers"][-1]["kl"]


def test_nothing_is_held_against_an_original_that_dies(tmp_path: Path, servers: "list[subprocess.Popen[str]]") -> None:
    def killed(what: str, done: int, total: int) -> None:
        servers[-1].kill()

    part = run(plan(tmp_path / "kept.json", {"original": "stories260k", "other": "stories260k"}), killed)
    assert not part["complete"] and part["models"]["original"]["stopped"] and len(servers) == 1
    assert part["kept"] == {} and not part["models"]["other"]["tiers"]


def test_a_layer_that_loses_a_hundredth_is_found_and_a_sound_one_is_not(tmp_path: Path) -> None:
    words = ["--layer", "2", "--noise", str(NOISE), "--windows", "60", "--threads", "1"]
    assert planted(["stories260k", str(tmp_path / "found.json"), *words, "--length", "128"]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert 0.98 < found["top1_kept"] < 1.0 and "models model tiers 0 nats" in found["planted"]["worse"]
    assert not found["again"]["worse"] + found["again"]["better"]


def test_what_cannot_be_planted_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planted(["stories260k", str(tmp_path / "x.json"), "--layer", "5"]) == 2
    assert planted(["stories260k", str(tmp_path / "x.json"), "--noise", "0"]) == 2
    told = capsys.readouterr().err
    assert "layer is 5, it must be at least 0 and at most 4" in told and "noise is 0.0" in told


def test_a_page_shows_every_tier(report: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text(json.dumps(report))
    write_own([tmp_path / "kept.json"], tmp_path / "kept.html")
    page = (tmp_path / "kept.html").read_text()
    assert page.count("<img") == 1 and all(tier["tier"] in page for tier in report["models"]["tiers"]["tiers"])


def test_text_that_is_too_short_is_told(tmp_path: Path) -> None:
    (text := tmp_path / "short.txt").write_text("Once upon a time.")
    with pytest.raises(TextError, match="the text has 0 pieces of 64 tokens"):
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
        (["--windows", "1"], "windows is 1"),
        (["--kl", "-1"], "kl is -1"),
        (["--limit", "1"], "limit is 1"),
        (["--tasks", "nothing.jsonl"], "there is no task"),
        (["stories260k"], "two models are called stories260k"),
    ],
)
def test_a_command_that_makes_no_sense_is_refused(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "retention", "stories260k", *words, "--out", str(tmp_path / "x.json")]) == 2
    assert told in capsys.readouterr().err
