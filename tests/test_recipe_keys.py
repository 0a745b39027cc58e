"""Every key of a whole recipe is obeyed: texts and tasks by name, losses, splits, formats, keys and values in int8."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from builders import llama, opt

from moesaic.compress.export import export
from moesaic.compress.pipeline import compress
from moesaic.compress.recipe import read_recipe
from moesaic.engine.llm import LLM
from moesaic.engine.options import EngineOptions
from moesaic.engine.scoring import Reader
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.errors import SetupError, TextError

WHOLE = """
calibration: {text: [calibration], sequences: 4, length: 64, seed: 0}
evaluation:  {text: [black_beauty], documents: 2, truncate: 64, tasks: [likely, said], tasks_dir: TASKS, limit: 3}
stages:
  - prune:    {method: flap, what: ffn_neurons, remove: 0.25}
  - distill:  {losses: {logits: 1.0}, tokens: 2_00, lr: 1e-4}
  - moefy:    MOEFY
  - quantize: {linears: int8, activations: dynamic, kv_cache: int8}
"""
ROUTED = "{split: weight_kmeans, expert_size: 64, router: norm_regression, tiers: {high: 0.5, balanced: 0.3, low: 0.2}}"
PLANES = "{expert_size: 1, router: bit_planes, tiers: {high: 0.7, balanced: 0.55, low: 0.48}}"
INT8_KEPT: dict[str, Any] = {
    "stages": [{"quantize": {"linears": "int8", "kv_cache": "int8"}}],
    "evaluation": {"documents": 1},
}


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    said = [{"context": f"The horse number {i} went", "continuation": "home"} for i in range(5)]
    likely = [{"query": f"{i} and {i} is", "choices": [str(2 * i), "none"], "gold": 0} for i in range(5)]
    for name, rows in (("said", said), ("likely", likely)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def whole(tasks: Path, moefy: str) -> Any:
    return yaml.safe_load(WHOLE.replace("TASKS", str(tasks)).replace("MOEFY", moefy).replace("1e-4", "1.0e-4"))


@pytest.mark.parametrize(("family", "moefy"), [(opt, ROUTED), (llama, PLANES)])
def test_a_whole_recipe_does_all_that_it_says(tmp_path: Path, tasks: Path, family: Any, moefy: str) -> None:
    wide = {"ffn_dim": 512} if family is opt else {"intermediate_size": 512}
    family(tmp_path / "model", num_hidden_layers=2, **wide)
    done = compress(tmp_path / "model", tmp_path / "out", whole(tasks, moefy), rival=False)
    result = open_checkpoint(tmp_path / "out")
    ffns = [layer.ffn for layer in result.spec.layers]
    assert sum(ffn.width for ffn in ffns) == 768 and {ffn.up for ffn in ffns} == {"int8_dynamic"}
    assert result.tiers == ("full", "high", "balanced", "low") and result.spec.kv_cache == "int8"
    assert {ffn.experts.size for ffn in ffns} == {64 if family is opt else 1}
    assert done.original["documents"] == 2 and set(done.tasks) == {"likely", "said"}
    assert load(tmp_path / "out", tier="low")(torch.tensor([[1, 2, 3]])).isfinite().all()


def test_tasks_are_answered_by_the_original_and_at_each_tier(tmp_path: Path, tasks: Path) -> None:
    llama(tmp_path / "model", num_hidden_layers=1, intermediate_size=200)
    recipe = {**whole(tasks, PLANES), "stages": [{"moefy": yaml.safe_load(PLANES)}, {"quantize": {"linears": "int8"}}]}
    done = compress(tmp_path / "model", tmp_path / "out", recipe)
    assert list(done.tasks["said"]) == ["original", "full", "high", "balanced", "low"]
    assert done.tasks["likely"]["original"]["items"] == 3 and "verdict" in done.tasks["likely"]["low"]
    again = compress(tmp_path / "model", tmp_path / "out", recipe)
    assert again.already_there and again.tasks == done.tasks


def test_a_file_with_such_numbers_is_read_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(WHOLE.replace("2_00", "2_000_000").replace("MOEFY", ROUTED))
    distill = read_recipe(tmp_path / "recipe.yaml").stages[1].settings.model_dump()
    assert (distill["tokens"], distill["lr"], distill["losses"]) == (2_000_000, 1e-4, {"logits": 1.0, "hidden": 0.0})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tasks": ["sad"]}, "there is no task 'sad' here or in .*; did you mean 'said'?"),
        ({"tasks": ["piqa"], "tasks_dir": None}, "there is no task 'piqa' here; .*tasks_dir"),
        ({"text": ["black_beaty"]}, "there is no text file 'black_beaty'; .*one that ships: black_beauty, calibration"),
    ],
)
@pytest.mark.parametrize("dry_run", [True, False])
def test_what_is_not_there_is_told_before_any_work(
    tmp_path: Path, tasks: Path, changes: dict[str, Any], told: str, dry_run: bool
) -> None:
    llama(tmp_path / "model", num_hidden_layers=1)
    recipe = {**INT8_KEPT, "evaluation": {"tasks_dir": str(tasks), **changes}}
    with pytest.raises(TextError, match=told):
        compress(tmp_path / "model", tmp_path / "out", recipe, lambda *_: pytest.fail("it began"), dry_run)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", [{"tasks": "piqa"}, {"tasks": [1]}, {"limit": 0}, {"tasks_dir": 3}])
def test_tasks_that_mean_nothing_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SetupError, match="evaluation"):
        read_recipe({**INT8_KEPT, "evaluation": changes})


# --- keys and values -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kept") / "out"
    compress("stories260k", out, INT8_KEPT)
    return out


def test_a_recipe_says_how_an_engine_keeps_keys_and_values(kept: Path) -> None:
    small, wide = (LLM(kept, EngineOptions(num_slots=1, kv_cache=each)).description for each in (None, "model"))
    assert open_checkpoint(kept).record.stages[0].settings["kv_cache"] == "int8"
    assert small.kv_tokens == wide.kv_tokens and small.kv_bytes < wide.kv_bytes / 2


def test_what_is_scored_is_kept_as_it_is_served(kept: Path) -> None:
    kinds = [Reader(load(path), 64)._runner.pages.layers[0].keys.dtype for path in (kept, "stories260k")]
    assert kinds == [torch.int8, torch.float32]


def test_a_dense_export_forgets_how_keys_and_values_were_kept(kept: Path, tmp_path: Path) -> None:
    export(kept, tmp_path / "plain", dtype="float32")
    assert open_checkpoint(tmp_path / "plain").spec.kv_cache == "model"
