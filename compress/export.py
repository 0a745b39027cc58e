"""`moesaic export --to dense`: a directory that any loader of the family opens, from one that only moesaic does."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..models.checkpoint import DTYPES, Checkpoint, open_checkpoint, read_tensors
from ..models.errors import CheckpointError
from ..models.families.config import Config
from ..models.families.registry import is_sparse_tensor
from ..models.files import new_directory
from ..models.linear import multiplied_out
from ..models.spec import DENSE, ExpertSpec, LayerSpec, TransformerSpec
from ..models.writer import SIDE_FILES, write_weights
from .sizes import dense_bytes


def export_dense(model: str | Path, out: str | Path, dtype: str = "bfloat16") -> TransformerSpec:
    """Writes the full tier in floating point under the family's own names and config; returns its spec.

    int8 weights are multiplied out. Layers of unequal width are padded to the widest with neurons that give 0; a bias
    that pruning left is kept where the family's config can say so. Raises CheckpointError where it cannot.
    """
    source, target = open_checkpoint(model), Path(out).expanduser()
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype is {dtype!r}, it must be one of {', '.join(DTYPES)}")
    spec, config = _plain(source), dict(source.config)
    config = {key: value for key, value in config.items() if key != "quantization_config"}
    config |= {source.family.width_key: spec.layers[0].ffn.width, "torch_dtype": dtype, "dtype": dtype}
    if source.family.bias_key:
        config[source.family.bias_key] = spec.layers[0].ffn.output_bias
    if source.family.spec(Config(config)) != spec:
        raise CheckpointError(
            f"{source.path.name}: the config of the family {source.spec.family} cannot say what this model is (its FFN "
            "biases or formats differ); it stays a directory for moesaic"
        )
    with new_directory(target, dense_bytes(spec, DTYPES[dtype])) as folder:
        write_weights(folder, _tensors(source, spec, DTYPES[dtype]), source.family.their_name)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        for name in SIDE_FILES:
            if (source.path / name).is_file():
                shutil.copyfile(source.path / name, folder / name)
    return spec


def _plain(source: Checkpoint) -> TransformerSpec:
    """The spec with equal, dense layers."""
    width = max(layer.ffn.width for layer in source.spec.layers)
    biased = any(layer.ffn.output_bias for layer in source.spec.layers)
    layers = tuple(_plain_layer(layer, width, biased) for layer in source.spec.layers)
    return replace(source.spec, layers=layers, embedding=DENSE, head=DENSE, num_tiers=1, kv_cache="model")


def _plain_layer(layer: LayerSpec, width: int, biased: bool) -> LayerSpec:
    attention = replace(layer.attention, query=DENSE, key=DENSE, value=DENSE, output=DENSE)
    ffn = replace(
        layer.ffn, width=width, up=DENSE, gate=DENSE, down=DENSE, experts=ExpertSpec(), bias=biased, output_bias=biased
    )
    return LayerSpec(attention, ffn)


def _tensors(source: Checkpoint, spec: TransformerSpec, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """The source's tensors, multiplied out and padded, then the biases that it lacks."""
    scales = {name: tensor for name, tensor in read_tensors(source) if name.endswith("_scale")}
    width, present = spec.layers[0].ffn.width, set()
    for name, tensor in read_tensors(source):
        if is_sparse_tensor(name) or name in scales:
            continue
        present.add(name)
        yield name, _padded(name, multiplied_out(name, tensor, scales), width).to(dtype)
    for i, layer in enumerate(spec.layers):
        sizes = {"up": width, "gate": width, "down": spec.hidden_size} if layer.ffn.output_bias else {}
        for linear, size in sizes.items():
            name = f"layers.{i}.ffn.{linear}.bias"
            if name not in present and (linear != "gate" or layer.ffn.gated):
                yield name, torch.zeros(size, dtype=dtype)


def _padded(name: str, tensor: Tensor, width: int) -> Tensor:
    """FFN tensors with neurons of zeros behind theirs."""
    _, _, leaf = name.partition(".ffn.")
    if leaf == "down.weight":
        return functional.pad(tensor, (0, width - tensor.shape[1]))
    if leaf in ("up.weight", "gate.weight"):
        return functional.pad(tensor, (0, 0, 0, width - tensor.shape[0]))
    if leaf in ("up.bias", "gate.bias"):
        return functional.pad(tensor, (0, width - tensor.shape[0]))
    return tensor
