"""Where a recipe computes: one place decides, everything follows it, and no result depends on it."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import llama

from moesaic.compress.moefy.importance import neuron_importance
from moesaic.compress.prune.stage import PruneStage
from moesaic.compress.recipe import Recipe, read_recipe
from moesaic.compress.run import Run
from moesaic.compress.stage_cache import on_other
from moesaic.models.checkpoint import load, open_checkpoint, read_tensors
from moesaic.models.devices import choose_device, multiplies_bf16
from moesaic.models.errors import SetupError

ROOT = Path(__file__).resolve().parents[1]
NAMES_THE_CPU = {
    "compress/distill/student.py": "what was learned is written from there",
    "compress/distill/training.py": "how much it takes at once",
    "compress/moefy/cluster.py": "k-means is made of small steps that ask for numbers",
    "compress/moefy/input_tiers.py": "what was found is written from there",
    "compress/stage_cache.py": "keys of its results are the plain ones",
}
LOADS = {  # the second at the teacher's own dtype, the third in the answers' own
    "compress/material.py", "compress/distill/training.py", "compress/answers.py",
}  # fmt: skip
SHORT: dict[str, Any] = {"calibration": {"sequences": 6, "length": 32}, "evaluation": {"documents": 1, "truncate": 16}}
PRUNE: list[dict[str, Any]] = [{"prune": {"remove": 0.25}}]
INT8 = {"quantize": {"linears": "int8"}}
LEARN = {"distill": {"tokens": 64, "batch": 2, "lr": 1e-4}}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    llama(tmp_path / "model", num_hidden_layers=2)
    return tmp_path / "model"


def recipe(stages: list[dict[str, Any]], device: str | None = None) -> Recipe:
    return read_recipe({**SHORT, "stages": stages, "device": device})


def run_of(model: Path, stages: list[dict[str, Any]], device: str | None = None) -> Run:
    return Run(open_checkpoint(model), recipe(stages, device), lambda what, done, total: None)


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """Every node of every module of compress/, with the module's path."""
    for file in sorted((ROOT / "compress").rglob("*.py")):
        yield from ((str(file.relative_to(ROOT)), node) for node in ast.walk(ast.parse(file.read_text())))


@pytest.mark.parametrize("kernels, quick", [("DEFAULT", False), ("AVX2", False), ("AVX512", True)])
def test_bf16_is_for_a_gpu_and_avx512(monkeypatch: pytest.MonkeyPatch, kernels: str, quick: bool) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kernels)
    assert multiplies_bf16(torch.device("cpu")) is quick
    assert multiplies_bf16(torch.device("cuda"))


def test_no_stage_names_the_cpu_by_itself() -> None:
    found = {name for name, node in nodes() if isinstance(node, ast.Constant) and node.value == "cpu"}
    assert found == set(NAMES_THE_CPU) | {"compress/prune/statistics.py"}  # its default, for who has no device


def test_models_are_loaded_in_one_place() -> None:
    calls = [(name, node.func) for name, node in nodes() if isinstance(node, ast.Call)]
    assert {name for name, each in calls if isinstance(each, ast.Name) and each.id == "load_transformer"} == LOADS


def test_a_run_and_all_in_it_computes_where_its_recipe_says(model: Path) -> None:
    run = run_of(model, PRUNE, "cpu")
    assert (run.device, run.judge.device) == (torch.device("cpu"), torch.device("cpu"))
    assert run_of(model, PRUNE).device == choose_device(None)
    with pytest.raises(SetupError, match="device 'gpu' cannot be used .*; try --device cpu"):
        run_of(model, PRUNE, "gpu")


def test_a_recipe_is_the_same_one_on_every_device() -> None:
    assert recipe(PRUNE, "cuda").sha256() == recipe(PRUNE, "cpu").sha256() == recipe(PRUNE).sha256()


def test_what_another_device_found_is_kept_apart() -> None:
    assert on_other(torch.device("cpu")) == {} and on_other(torch.device("cuda:1")) == {"device": "cuda"}


def test_a_device_without_room_is_a_sentence_with_the_stage_and_the_way_out(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has ...")

    monkeypatch.setattr(PruneStage, "run", out_of_memory)
    told = r"^prune: the device has too little memory \(CUDA out of memory\); give --device cpu, or lower calibration"
    with pytest.raises(SetupError, match=told):
        run_of(model, PRUNE, "cpu").checkpoint()


def test_labels_are_drawn_without_a_generator_of_the_device(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[torch.device] = []
    draw = torch.multinomial

    def noted(*args: Any, **kwargs: Any) -> torch.Tensor:
        drawn.append(kwargs["generator"].device)
        return draw(*args, **kwargs)

    monkeypatch.setattr(torch, "multinomial", noted)
    neuron_importance(load(model), torch.arange(32).view(2, 16))
    assert set(drawn) == {torch.device("cpu")}


@pytest.mark.gpu
@pytest.mark.parametrize(
    "stages",
    [
        PRUNE,
        [INT8],
        [LEARN],
        [{"moefy": {"grain": "inputs", "tiers": {"low": 0.6}}}, INT8],
        [{"moefy": {"expert_size": 1, "router": "bit_planes", "tiers": {"low": 0.7}}}, INT8],
        [{"moefy": {"expert_size": 8, "router": "norm_regression", "tiers": {"low": 0.7}}}],
    ],
    ids=["prune", "quantize", "distill", "inputs", "planes", "routers"],
)
def test_a_gpu_finds_what_a_cpu_finds(stages: list[dict[str, Any]], model: Path) -> None:
    """To a thousandth of every tensor, of the bytes that tiers read and of the score: sums have another order there.
    Routers, and what learns in bf16, to a twentieth.
    """
    runs = [run_of(model, stages, device) for device in ("cpu", "cuda")]
    made = [run.make() for run in runs]
    loose = 0.05 if "distill" in stages[0] or "norm_regression" in str(stages) else 1e-3
    theirs, ours = (dict(read_tensors(each.checkpoint)) for each in made)
    for name, tensor in theirs.items():
        assert (ours[name].double() - tensor.double()).norm() <= loose * tensor.double().norm() + 1e-6, name
    for tier, score in made[0].tiers.items():
        assert made[1].tiers[tier].perplexity == pytest.approx(score.perplexity, rel=loose)
        assert made[1].tiers[tier].shares == pytest.approx(score.shares, abs=max(loose, 5e-3))
