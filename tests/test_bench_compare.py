"""Two reports beside each other: what differs beyond noise, and what does not."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from load_records import driven, record
from safetensors.torch import load_file, save_file

from moesaic.bench.compare import Change, compared, read_report
from moesaic.bench.figure import mean_of, ratio_of_rounds
from moesaic.bench.kept import ScoredText, score_ours
from moesaic.bench.load.figures import Limits, figures
from moesaic.models.errors import SetupError
from moesaic.models.locate import locate


def report(slower: float = 1.0, seed: int = 0, count: int = 400) -> dict[str, Any]:
    draw = random.Random(seed)
    records = [
        record(i, [i + slower * draw.gauss(0.1, 0.01) + slower * 0.01 * j for j in range(5)]) for i in range(count)
    ]
    return {"levels": [{"name": "users 1", "results": {"a": figures(driven(*records), Limits())}}]}


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    return [change for change in compared(before, after, 0.03) if change.sign]


def test_two_runs_of_the_same_thing_compare_as_equal() -> None:
    assert sum(bool(changes(report(seed=2 * i), report(seed=2 * i + 1))) for i in range(10)) <= 1


def test_a_slow_down_of_a_tenth_is_found() -> None:
    found = changes(report(seed=0), report(1.1, seed=1))
    assert found and all(change.worse for change in found)


def test_what_grew_better_is_not_worse() -> None:
    found = changes(report(1.1, seed=0), report(seed=1))
    assert found and not any(change.worse for change in found)


def test_a_change_below_what_was_asked_for_is_not_told() -> None:
    before, after = report(seed=0, count=4000), report(1.05, seed=1, count=4000)
    assert changes(before, after) and not [change for change in compared(before, after, 0.2) if change.sign]


@pytest.mark.parametrize("text", ["", "[]", '{"levels": []}', "not json"])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    (file := tmp_path / "x.json").write_text(text)
    with pytest.raises(SetupError, match="is no report with figures"):
        read_report(file)


def test_reports_without_a_figure_in_common_are_refused() -> None:
    other = json.loads(json.dumps(report()).replace("users 1", "users 2"))
    with pytest.raises(SetupError, match="no figure in common"):
        compared(report(), other, 0.03)


def rounds(slower: float, seed: int) -> dict[str, Any]:
    """A kernel beside a peer, on a machine whose speed drifts by half."""
    draw, ours, theirs = random.Random(seed), [], []
    for i in range(60):
        drift = 1 + 0.5 * (i / 60)
        ours.append(slower * drift * draw.gauss(1, 0.02))
        theirs.append(2 * drift * draw.gauss(1, 0.02))
    return {"kernels": [{"name": "a", "ours_beside_it": ratio_of_rounds(ours, theirs).as_json()}]}


def test_a_kernel_that_is_a_tenth_slower_is_found_whatever_the_machine_does() -> None:
    assert [change.worse for change in changes(rounds(1.0, 0), rounds(1.1, 1))] == [True]
    assert not changes(rounds(1.0, 0), rounds(1.0, 1))


def documents(lost: float) -> dict[str, Any]:
    draw = random.Random(3)
    nats = [(draw.uniform(50, 500), 100.0) for _ in range(30)]
    worse = [(each * (1 + lost * draw.uniform(0, 2)), whole) for each, whole in nats]
    return {"nats": mean_of(worse, "nats/token", "less").as_json()}


def test_documents_are_compared_one_by_one() -> None:
    """Unpaired, a thousandth would be lost between documents that differ tenfold."""
    assert [change.worse for change in changes(documents(0), documents(1e-3))] == [True]
    assert not changes(documents(0), documents(0))


def test_other_documents_are_not_paired() -> None:
    before, after = documents(0), documents(1e-3)
    after["nats"]["items"] = after["nats"]["items"][1:]
    assert not changes(before, after)


def scored(model: Path) -> dict[str, Any]:
    return {"kept": score_ours(model, model, ScoredText(), 1, lambda *said: None)}


def test_a_loss_of_a_hundredth_in_a_layer_is_found(tmp_path: Path) -> None:
    sound = locate("stories260k")
    shutil.copytree(sound, tmp_path / "planted")
    tensors = load_file(file := tmp_path / "planted" / "model.safetensors")
    weight = tensors[(name := "model.layers.2.mlp.down_proj.weight")]
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    save_file({**tensors, name: weight + 0.01 * weight.abs().mean() * noise}, file, {"format": "pt"})
    before = scored(sound)
    found = changes(before, scored(tmp_path / "planted"))
    assert [(change.name, change.worse) for change in found] == [("kept figures nats", True)]
    assert not changes(before, scored(sound))
