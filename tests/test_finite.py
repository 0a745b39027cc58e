"""Numbers beyond what arithmetic holds end in one sentence with layer and tensor, early, and leave nothing behind."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import llama, opt
from safetensors.torch import load_file, save_file
from torch import Tensor

from moesaic.compress.export import export
from moesaic.compress.pipeline import compress
from moesaic.compress.recipe import read_recipe, shipped_recipes
from moesaic.compress.run import Run
from moesaic.evaluate.measure import measure
from moesaic.evaluate.plan import Plan
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.errors import CheckpointError, RecipeError
from moesaic.models.finite import check_range
from moesaic.models.writer import write_weights

TEXTS: dict[str, Any] = {
    "calibration": {"sequences": 4, "length": 32}, "evaluation": {"documents": 1, "truncate": 24},
}  # fmt: skip
INT8 = {"quantize": {"linears": "int8"}}
DISTILL = {"tokens": 128, "batch": 2}
PLANES = {"router": "bit_planes", "bits": 3, "tiers": {"low": 0.7}}
ROUTED = {"router": "norm_regression", "expert_size": 8, "router_width": 4, "tiers": {"low": 0.7}}
STAGES: dict[str, list[dict[str, Any]]] = {
    "prune by flap": [{"prune": {"remove": 0.2}}],
    "prune by magnitude": [{"prune": {"method": "magnitude", "remove": 0.2}}],
    "distill": [{"distill": DISTILL}],
    "distill hidden states": [{"distill": {**DISTILL, "losses": {"hidden": 1.0}}}],
    "distill at a tier": [{"distill": {**DISTILL, "at": {"share": 0.7, "bits": 2}}}],
    "press for zeros": [{"relufy": {**DISTILL, "activation": "keep", "sparsity": 1.0}}],
    "coactivation": [{"moefy": {**ROUTED, "split": "coactivation"}}],
    "patterns": [{"moefy": {**ROUTED, "split": "patterns"}}],
    "weight_kmeans": [{"moefy": {**ROUTED, "split": "weight_kmeans"}}],
    "planes": [{"moefy": PLANES}, INT8],
    "planes of tiles": [{"moefy": {**PLANES, "expert_size": 8}}, INT8],
    "dynamic activations": [{"moefy": PLANES}, {"quantize": {"linears": "int8", "activations": "dynamic"}}],
}
UP, DOWN = ("mlp.up_proj", "fc1"), ("mlp.down_proj", "fc2")


def spoiled(
    folder: Path, names: tuple[str, ...], change: Callable[[Tensor], Tensor], family: Any = llama, **sizes: int
) -> Path:
    """A model whose weights of these names, in layer 1 where they are of layers, are changed."""
    family(folder, num_hidden_layers=2, **sizes)
    file = folder / "model.safetensors"
    weights = load_file(file)
    for name in weights:
        if any(each in name for each in names) and name.endswith("weight") and ".layers.0." not in name:
            weights[name] = change(weights[name].clone())
    save_file({name: each.contiguous() for name, each in weights.items()}, file, metadata={"format": "pt"})
    return folder


def times(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda weight: weight * factor


def one(value: float, dtype: torch.dtype = torch.float32) -> Callable[[Tensor], Tensor]:
    def put(weight: Tensor) -> Tensor:
        weight.view(-1)[5] = value
        return weight.to(dtype)

    return put


def refused(action: Callable[[], Any], kind: type[Exception] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        action()
    assert "\n" not in str(caught.value) and "; " in str(caught.value)
    return str(caught.value)


# --- early ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [llama, opt])
@pytest.mark.parametrize(
    ("names", "change", "seen"),
    [
        (DOWN, times(1e20), "does not hold the squares that norms sum"),
        (DOWN, one(3e38), "which ends at 3.4e+38"),
        (DOWN, one(3e38, torch.bfloat16), "which ends at 3.4e+38"),
        (UP, times(1e37), "the largest weights there are"),
        (("o_proj", "out_proj"), times(1e37), "does not hold the squares that norms sum"),
        (("post_attention", "final_layer_norm"), times(1e20), "the largest weights there are"),
    ],
)
def test_a_model_out_of_range_is_named_before_any_stage_runs(
    tmp_path: Path, family: Any, names: tuple[str, ...], change: Any, seen: str
) -> None:
    model, said = spoiled(tmp_path / "model", names, change, family), list[str]()
    recipe = {**TEXTS, "stages": [{"prune": {"remove": 0.2}}, {"moefy": PLANES}, INT8]}
    told = refused(lambda: compress(model, tmp_path / "out", recipe, lambda what, done, total: said.append(what)))
    assert told.startswith("scoring the original: layer 1: model.") and seen in told and "weight (up to " in told
    assert said == [] and [file.name for file in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_refuses_such_a_model_at_once(tmp_path: Path, name: str) -> None:
    family, sizes = (opt, {"ffn_dim": 400}) if name == "all-four-relu" else (llama, {"intermediate_size": 200})
    model = spoiled(tmp_path / "model", DOWN, times(1e20), family, max_position_embeddings=256, **sizes)
    told = refused(lambda: compress(model, tmp_path / "out", name))
    assert told.startswith("scoring the original: layer 1: model.") and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(float("nan"), torch.float32), (float("inf"), torch.float16), (-float("inf"), torch.bfloat16)],
)
def test_weights_that_are_no_numbers_are_named(tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    model = spoiled(tmp_path / "model", UP, one(value, dtype))
    told = refused(lambda: compress(model, tmp_path / "out", {**TEXTS, "stages": [INT8]}))
    assert "model.layers.1.mlp.up_proj.weight holds NaN or infinity; copy the weights again" in told


def test_doubles_beyond_fp32_are_refused_with_a_way_that_exists(tmp_path: Path) -> None:
    model = spoiled(tmp_path / "model", UP, lambda weight: one(1e300, torch.float64)(weight.double()))
    told = refused(lambda: load(model))
    assert "up_proj.weight holds values too large for float32; no dtype" in told
    assert "choose float32 or bfloat16" in refused(lambda: load(spoiled(tmp_path / "b", UP, one(1e6)), dtype="float16"))


@pytest.mark.parametrize("what", ["text", "task"])
def test_eval_names_what_it_cannot_score(tmp_path: Path, what: str) -> None:
    model = spoiled(tmp_path / "model", DOWN, times(1e20))
    (tmp_path / "task.jsonl").write_text('{"context": "The old horse", "continuation": " ran"}\n')
    plan = Plan(str(model), documents=1) if what == "text" else Plan(str(model), tasks=(str(tmp_path / "task.jsonl"),))
    assert "layer 1: model.layers.1.mlp.down_proj.weight (up to " in refused(lambda: measure(plan))


# --- each stage by itself ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)
def test_every_stage_names_layer_and_tensor_itself(tmp_path: Path, stages: Any) -> None:
    names, factor = (UP, 1e37) if "moefy" in stages[0] else (DOWN, 1e20)
    source = open_checkpoint(spoiled(tmp_path / "model", names, times(factor)))
    run = Run(source, read_recipe({**TEXTS, "seed": 3, "stages": stages}), lambda what, done, total: None)
    told = refused(run.checkpoint)
    assert "layers.1." in told and "weight" in told and "copy or make them again" in told


@pytest.mark.parametrize("stages", ["distill", "planes", "distill at a tier"])
def test_a_gradient_that_is_no_number_is_told_with_the_largest_weights(tmp_path: Path, stages: str) -> None:
    source = open_checkpoint(spoiled(tmp_path / "model", ("q_proj",), times(1e20)))
    run = Run(source, read_recipe({**TEXTS, "stages": STAGES[stages]}), lambda what, done, total: None)
    told = refused(run.checkpoint)
    assert "gradient" in told and "model.layers.1.self_attn.q_proj.weight" in told


@pytest.mark.parametrize(
    "settings", [{"losses": {"logits": 1e38}}, {"losses": {"hidden": 1e39}}, {"temperature": 1e-38}]
)
def test_a_loss_that_the_recipe_itself_makes_infinite_is_not_blamed_on_the_rate(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    llama(tmp_path / "model", num_hidden_layers=1)
    recipe = {**TEXTS, "stages": [{"prune": {"remove": 0.5}}, {"distill": {**DISTILL, **settings}}]}
    told = refused(lambda: compress(tmp_path / "model", tmp_path / "out", recipe), RecipeError)
    assert "is no finite number" in told and told.endswith("bring losses and temperature nearer to 1")


# --- what is written -----------------------------------------------------------------------------------------------


def test_an_export_into_a_dtype_that_cannot_hold_it_leaves_nothing(tmp_path: Path) -> None:
    model = spoiled(tmp_path / "model", DOWN, one(1e6))
    told = refused(lambda: export(model, tmp_path / "out", dtype="float16"))
    assert "down_proj.weight would hold NaN or infinity in float16, which ends at 6.55e+04; bfloat16" in told
    assert not (tmp_path / "out").exists() and export(model, tmp_path / "out", dtype="bfloat16")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_weights_that_a_reader_would_refuse_are_written(tmp_path: Path, value: float) -> None:
    tensors = [("layers.0.ffn.up.weight", torch.ones(2, 2)), ("layers.0.ffn.thresholds", torch.tensor([[value, 0.0]]))]
    assert "thresholds would hold" in refused(lambda: write_weights(tmp_path, tensors, str))


def test_a_model_in_range_is_let_through_at_any_scale_it_can_have(tmp_path: Path) -> None:
    for factor in (0.0, 1e-40, 1e-20, 1.0, 1e15):
        model = load(spoiled(tmp_path / f"{factor}", DOWN, times(factor)))
        check_range(model, list(range(20)))
        check_range(model, [])
