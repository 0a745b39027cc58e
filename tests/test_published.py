"""Pages of results are made of the JSON files beside them, and a figure that no file holds cannot be written."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from house import ROOT
from jinja2 import UndefinedError
from safetensors import safe_open

from moesaic.bench.published import beside, figures, run
from moesaic.bench.published.figures import RESULTS, Curves, curves, pooled, recipe, result
from moesaic.bench.published.text import kept, render, times
from moesaic.bench.reference.card import model_card

PAGES = run.pages()
CURVES = sorted(RESULTS.glob("retention/*/curves.json"))
CARDS = sorted(RESULTS.glob("reference/*/card.json"))


@pytest.mark.parametrize("page", PAGES, ids=lambda file: str(file.relative_to(run.ROOT)))
def test_a_page_is_what_its_files_make_of_it(page: Path) -> None:
    assert page.read_text() == PAGES[page](), "make results"


def test_every_page_of_results_is_made_by_the_command() -> None:
    there = {file.resolve() for kind in ("*.md", "*.html") for file in RESULTS.rglob(kind)}
    assert there | {(ROOT / "docs" / name).resolve() for name in ("results.md", "gpu.md", "report.html")} == {
        file.resolve() for file in PAGES
    }


@pytest.mark.parametrize("file", CURVES, ids=lambda file: file.parent.name)
def test_the_points_of_a_file_are_of_one_run(file: Path) -> None:
    found = json.loads(file.read_text())
    assert [key for key in found["provenance"] if "commit" in key] == ["commit"]
    names = [(point["method"], point["share"]) for point in found["points"]]
    assert len(names) == len(set(names)) and all(sum(found["dense"]["tokens"]) == found["tokens"] for _ in names)


@pytest.mark.parametrize("file", CURVES, ids=lambda file: file.parent.name)
def test_the_figures_of_a_file_are_those_of_its_windows(file: Path) -> None:
    found, folder = json.loads(file.read_text()), file.parent.name
    for point in [each for each in found["points"] if not each["reason"]][::20]:
        again = curves(folder).kept(point["method"], point["share"])
        assert again and again.top1.value == pytest.approx(point["top1_relative"]["value"])
        assert again.perplexity.value == pytest.approx(point["perplexity_relative"]["value"])


@pytest.mark.parametrize("file", CARDS, ids=lambda file: file.parent.name)
def test_a_card_agrees_with_the_model_and_its_curve(file: Path) -> None:
    card, folder = json.loads(file.read_text()), file.parent
    curve, config = (json.loads((folder / name).read_text()) for name in ("curve.json", "config.json"))
    ffn = "intermediate_size" if card["gated"] else "ffn_dim"
    sizes = ("num_hidden_layers", "hidden_size", ffn, "num_attention_heads", "vocab_size")
    assert [card[key] for key in ("layers", "width", "ffn_width", "heads", "vocabulary")] == [
        config[key] for key in sizes
    ]
    assert card["parameters"] == sum(_elements(weights) for weights in folder.glob("*.safetensors"))
    assert card["tokens"] == curve["train"]["tokens"][-1] == card["steps"] * card["batch"] * card["context"]
    assert round(card["validation_loss"], 5) == round(curve["valid"]["nats_per_token"][-1], 5)


def _elements(weights: Path) -> int:
    with safe_open(weights, "pt") as opened:
        return sum(opened.get_tensor(name).numel() for name in opened.keys())


def test_a_figure_that_no_file_holds_is_an_error() -> None:
    with pytest.raises(KeyError):
        curves("smollm2").kept("a method that was not run", 0.55)
    with pytest.raises(FileNotFoundError):
        result("no/such/file")
    with pytest.raises(UndefinedError):
        model_card({"name": "a card with nothing in it"})


def test_runs_on_different_windows_are_not_put_together() -> None:
    with pytest.raises(ValueError, match="smollm2, smollm2-wide0 were scored on different windows"):
        curves("smollm2", "smollm2-wide0")


def _point(method: str, correct: list[int], reason: str = "") -> dict[str, Any]:
    nats = [4.0] * len(correct)
    group = "experts" if method.startswith("experts") else "other"
    return {
        "method": method, "group": group, "share": 0.5, "bytes_share": 0.46, "correct": correct, "nats": nats,
        "tokens": [10] * len(correct), "reason": reason,
    }  # fmt: skip


DENSE = _point("dense", [8, 8])
FOUND = Curves(DENSE, [
    _point("experts of 64, perfect", [8, 8]), _point("experts of 64, MLP", [6, 6]),
    _point("experts of 16, MLP", [6, 5]), _point("CATS", [0, 0], "no gate"),
    _point("TEAL", [4, 4]), _point("TEAL", [0, 0]),  # of two runs
])  # fmt: skip


def test_a_figure_is_written_with_the_bytes_where_they_are_others() -> None:
    assert kept(FOUND.kept("TEAL", 0.5)) == "50.0 %, x1.000 at 0.46"
    assert kept(FOUND.kept("TEAL", 0.5), True) == "50.0 % (50.0 to 50.0), x1.000 at 0.46"
    assert kept(FOUND.kept("CATS", 0.5)) == "" and times(12.345) == "x12.35"


def test_the_best_tile_has_a_router_that_can_be_had() -> None:
    assert FOUND.best_tile(0.5).method == "experts of 64, MLP"
    assert FOUND.against("TEAL", "experts of 64, MLP", 0.5).top1.value == pytest.approx(4 / 6)


def test_runs_put_together_are_weighed_by_their_tokens() -> None:
    both = pooled("smollm2-wide0", "smollm2-wide1")
    parts = [result(f"retention/smollm2-wide{seed}/curves") for seed in (0, 1)]
    assert both.tokens == sum(part["tokens"] for part in parts)
    right = [sum(sum(p["correct"]) for p in (part["points"][0],)) for part in parts]
    found = both.kept(parts[0]["points"][0]["method"], parts[0]["points"][0]["share"])
    assert found and found.top1.value == pytest.approx(
        sum(right) / sum(sum(part["dense"]["correct"]) for part in parts)
    )


def test_a_recipe_tells_a_tier_a_control_and_a_speed() -> None:
    found = recipe("smollm2-all-four")
    assert found.tier("low").top1.value == pytest.approx(found.values["tiers"][-1]["relative_top1"])
    assert found.control("static pruning", "low")["group"] == "static" and found.speed("full", 1)["times_full"] == 1
    with pytest.raises(StopIteration):
        found.tier("lowest")


def test_the_command_writes_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(run, "pages", lambda: {tmp_path / "memory.md": lambda: render("memory")})
    monkeypatch.setattr(run, "ROOT", tmp_path)
    assert run.main() == 0 and capsys.readouterr().out == "memory.md\n"
    assert (tmp_path / "memory.md").read_text() == (RESULTS / "memory/README.md").read_text()


def test_without_a_clone_the_command_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(run, "RESULTS", Path("no/results"))
    assert run.main() == 2 and "results are in a clone of the repository" in capsys.readouterr().err


def test_the_page_of_peers_has_a_row_for_each_and_a_column_for_each_number_of_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, name = copy.deepcopy(result("peers/smollm2")), "OpenVINO GenAI Q8_0"
    of_one = [each for each in run["decode"] if each["contestant"] == run["peers"][0]]
    run["decode"] += [each | {"contestant": name} for each in of_one]
    run["decode"] += [each | {"batch": 32} for each in run["decode"] if each["batch"] == 8]
    run["first_token"] += [{"contestant": name, "threads": count, "seconds": 0.5} for count in run["threads"]]
    run["contestants"][name] = run["contestants"][run["peers"][0]] | {"version": "2026.4"}
    run["peers"], run["batches"] = [*run["peers"], name], [*run["batches"], 32]
    plain = result
    monkeypatch.setattr(beside, "result", lambda name: run if name == "peers/smollm2" else plain(name))
    beside.beside.cache_clear()
    page = render("results")
    beside.beside.cache_clear()
    assert "## Beside llama.cpp, CTranslate2 and OpenVINO GenAI" in page and "OpenVINO GenAI 2026.4" in page
    assert "| 8 streams | 32 streams | first token |" in page and f"| {name} | 143 MB |" in page


def encoder_report(folder: Path, seed: int, *methods: str) -> None:
    folder.mkdir(parents=True)
    facts = {"model": "m", "text": [], "documents": 3, "length": 8, "calibration_text": [], "calibration_tokens": 9}
    points = [{"method": method, "share": 0.5, "of": folder.name} for method in methods]
    (folder / "encoder.json").write_text(json.dumps(facts | {"seed": seed, "points": points}))


def test_a_later_run_on_the_same_documents_adds_methods_and_takes_the_place_of_those_it_has_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    encoder_report(tmp_path / "retention/minilm", 0, "planes", "graded")
    encoder_report(tmp_path / "retention/minilm-later", 0, "graded", "TEAL")
    [(name, found)] = figures.encoder_runs().items()
    assert name == "minilm" and found["later"]["points"][0]["method"] == "graded"
    assert [(point["method"], point["of"]) for point in found["points"]] == [
        ("planes", "minilm"), ("graded", "minilm-later"), ("TEAL", "minilm-later"),
    ]  # fmt: skip
    encoder_report(tmp_path / "retention/t5", 0)
    encoder_report(tmp_path / "retention/t5-later", 1)
    with pytest.raises(ValueError, match="t5-later was scored on other documents than t5"):
        figures.encoder_runs()
