"""What a checkpoint stores of its spec is enough to make it again."""

import dataclasses
import random
from typing import Any

import pytest

from moesaic.models.spec import (
    AttentionSpec,
    FFNSpec,
    LayerSpec,
    RopeSpec,
    TransformerSpec,
    spec_overrides,
    with_overrides,
)

LAYER = LayerSpec(AttentionSpec(num_heads=8, num_kv_heads=4, head_size=6), FFNSpec(88, "silu", gated=True))
SPEC = TransformerSpec("llama", 512, 48, 64, "rms", 1e-5, True, (LAYER,) * 4, rope=RopeSpec(10000.0))


def changed(draw: random.Random) -> TransformerSpec:
    """A spec that differs from SPEC in some layers and some formats."""
    layers = []
    for layer in SPEC.layers:
        ffn = dataclasses.replace(layer.ffn, width=draw.choice([88, 64]), up=draw.choice(["dense", "int8"]))
        attention = dataclasses.replace(layer.attention, query=draw.choice(["dense", "int8"]))
        layers.append(LayerSpec(attention, ffn))
    return dataclasses.replace(SPEC, layers=tuple(layers), embedding=draw.choice(["dense", "int8"]))


@pytest.mark.parametrize("seed", range(50))
def test_overrides_give_the_spec_back(seed: int) -> None:
    spec = changed(random.Random(seed))
    assert with_overrides(SPEC, spec_overrides(spec, SPEC)) == spec


def test_equal_specs_have_no_overrides() -> None:
    assert spec_overrides(SPEC, SPEC) == {}


def test_what_all_layers_share_is_said_once() -> None:
    int8 = with_overrides(SPEC, {"layers.*.ffn.up": "int8"})
    assert all(layer.ffn.up == "int8" for layer in int8.layers)
    assert spec_overrides(int8, SPEC) == {"layers.*.ffn.up": "int8"}


def test_a_single_layer_is_said_by_its_number() -> None:
    assert spec_overrides(with_overrides(SPEC, {"layers.2.ffn.width": 64}), SPEC) == {"layers.2.ffn.width": 64}


def test_overrides_leave_the_default_as_it_was() -> None:
    before = dataclasses.asdict(SPEC)
    with_overrides(SPEC, {"layers.0.ffn.width": 1, "rope.theta": 5.0})
    assert dataclasses.asdict(SPEC) == before


@pytest.mark.parametrize(
    "path", ["", "x", "layers", "layers.*", "layers.4.ffn.up", "layers.-1.ffn.up", "layers.0.ffn", "rope.x", "norm.x"]
)
def test_a_path_that_does_not_exist_is_a_key_error_that_names_it(path: str) -> None:
    with pytest.raises(KeyError) as caught:
        with_overrides(SPEC, {path: "int8"})
    assert caught.value.args == (path,)


@pytest.mark.parametrize(
    ("path", "value"),
    [("layers.*.ffn.up", "int3"), ("norm", "l2"), ("vocab_size", -1), ("tied_head", 1), ("norm_eps", "x")],
)
def test_a_value_that_cannot_stand_there_is_a_value_error(path: str, value: Any) -> None:
    with pytest.raises(ValueError, match=path.replace("*", r"\*")):
        with_overrides(SPEC, {path: value})
