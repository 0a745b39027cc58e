"""`moesaic export`: a directory that other loaders open, from one that only moesaic does."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..models.checkpoint import DTYPES, Checkpoint, open_checkpoint, read_tensors
from ..models.errors import CheckpointError
from ..models.families.config import Config
from ..models.families.registry import is_sparse_tensor
from ..models.files import new_directory
from ..models.gguf.writer import KINDS, write_gguf
from ..models.layout import Layout
from ..models.linear import multiplied_out
from ..models.spec import DENSE, INT8_DYNAMIC, ExpertSpec, LayerSpec, TransformerSpec
from ..models.suggestion import suggestion
from ..models.writer import copy_beside, write_weights
from .sizes import dense_bytes

TO = ("dense", "compressed-tensors", "gguf")
_W8A8 = {  # in the words of compressed-tensors: int8 weights, a scale a row; activations as they come, a scale a token
    "quant_method": "compressed-tensors", "format": "int-quantized", "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {"group_0": {
        "targets": ["Linear"],
        "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
        "input_activations": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True},
    }},
}  # fmt: skip
_LINEAR = re.compile(r"layers\.\d+\.(attention|ffn)\.\w+\.weight")


def export(
    model: str | Path, out: str | Path, to: str = "dense", dtype: str = "bfloat16", kind: str = "Q8_0"
) -> TransformerSpec:
    """Writes the full tier for other loaders, under the family's own names and config; returns its spec.

    to: one of TO. dense multiplies int8 weights out, as the others do what is no linear of a layer; compressed-tensors
    keeps those int8; gguf is a file for llama.cpp, its matrices of a kind that models/gguf/writer.py names. Layers of
    unequal width are padded to the widest with neurons that give 0; a bias that pruning left is kept where the family's
    config can say so. Raises CheckpointError where it cannot.
    """
    source, target = open_checkpoint(model), Path(out).expanduser()
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype is {dtype!r}, it must be one of {', '.join(DTYPES)}")
    _check_form(source, to)
    spec = _plain(source)
    if to == "gguf":
        _export_gguf(source, spec, target, kind)
        return spec
    config = _config(source, spec, dtype) | ({} if to == "dense" else {"quantization_config": _W8A8})
    with new_directory(target, dense_bytes(spec, DTYPES[dtype])) as folder:
        stored = Layout(source.family, spec).stored(_tensors(source, spec, DTYPES[dtype], to != "dense"))
        write_weights(folder, stored, source.family.their_name)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        copy_beside(source.path, folder)
    return spec


def _export_gguf(source: Checkpoint, spec: TransformerSpec, target: Path, kind: str) -> None:
    if kind not in KINDS:
        raise CheckpointError(f"kind is {kind!r}, it must be one of {', '.join(KINDS)}")
    with new_directory(target, dense_bytes(spec, torch.float32)) as folder:
        tensors = _tensors(source, spec, torch.float32, False)
        write_gguf(folder / f"{source.path.name}-{kind}.gguf", source.path.name, spec, tensors, kind, source.path)


def _check_form(source: Checkpoint, to: str) -> None:
    if to not in TO:
        raise CheckpointError(f"there is no format {to!r}; {suggestion(to, TO)}")
    if to != "dense" and (source.spec.classifies or source.spec.embeds):
        what = "has a classifier" if source.spec.classifies else f"is {source.spec.kind}"
        raise CheckpointError(f"{source.path.name} {what}, which is not written as {to}; export --to dense")
    if to == "compressed-tensors" and source.spec.is_mixture:
        raise CheckpointError(
            f"{source.path.name}: its FFNs are mixtures of experts, which are not written as compressed-tensors; "
            "export --to dense"
        )
    if to == "compressed-tensors" and (not source.spec.causal or source.spec.reads_sources):
        what = "has an encoder" if source.spec.causal else "is an encoder"
        raise CheckpointError(
            f"{source.path.name} {what}, which is not written as compressed-tensors; export --to dense"
        )
    if to == "compressed-tensors" and source.family.transposed:
        raise CheckpointError(
            f"{source.path.name}: the linears of {source.spec.family} lie transposed in its files, which "
            "compressed-tensors does not know; export --to dense"
        )
    linears = {name: tensor_format for name, tensor_format in _formats(source.spec) if tensor_format != INT8_DYNAMIC}
    if to == "compressed-tensors" and linears:
        name, found = next(iter(linears.items()))
        raise CheckpointError(
            f"{source.path.name}: {name} is {found}, and compressed-tensors is written of int8 weights with int8 "
            "activations; compress with `quantize: {linears: int8, activations: dynamic}`, or export --to dense"
        )


def _formats(spec: TransformerSpec) -> Iterator[tuple[str, str]]:
    for i, layer in enumerate(spec.layers):
        for part, names in (("attention", ("query", "key", "value", "output")), ("ffn", ("up", "gate", "down"))):
            for name in names if layer.ffn.gated or part == "attention" else ("up", "down"):
                yield f"layers.{i}.{part}.{name}", getattr(getattr(layer, part), name)


def _config(source: Checkpoint, spec: TransformerSpec, dtype: str) -> dict[str, Any]:
    config = {key: value for key, value in source.config.items() if key != "quantization_config"}
    config |= {"torch_dtype": dtype, "dtype": dtype}
    if not _keeps_widths(spec):
        config[source.family.width_key] = spec.layers[0].ffn.width
    if source.family.bias_key:
        config[source.family.bias_key] = spec.layers[0].ffn.output_bias
    if source.family.spec(Config(config)) != spec:
        raise CheckpointError(
            f"{source.path.name}: the config of the family {source.spec.family} cannot say what this model is (its FFN "
            "widths, biases or formats differ); it stays a directory for moesaic"
        )
    return config


def _plain(source: Checkpoint) -> TransformerSpec:
    """The spec with dense layers, equal but in a mixture of experts."""
    width = 0 if _keeps_widths(source.spec) else max(layer.ffn.width for layer in source.spec.layers)
    biased = any(layer.ffn.output_bias for layer in source.spec.layers)
    layers = tuple(_plain_layer(layer, width, biased) for layer in source.spec.layers)
    encoder = source.spec.encoder
    if encoder is not None:
        encoder = replace(encoder, layers=tuple(_plain_layer(layer, 0, biased) for layer in encoder.layers))
    return replace(
        source.spec, layers=layers, encoder=encoder, embedding=DENSE, head=DENSE, num_tiers=1, kv_cache="model"
    )


def _keeps_widths(spec: TransformerSpec) -> bool:
    """Whether FFNs are as wide as they were, and not all of one width: in a mixture, and on two sides."""
    return spec.is_mixture or spec.reads_sources


def _plain_layer(layer: LayerSpec, width: int, biased: bool) -> LayerSpec:
    attention = replace(layer.attention, query=DENSE, key=DENSE, value=DENSE, output=DENSE)
    ffn = replace(
        layer.ffn, width=width or layer.ffn.width, up=DENSE, gate=DENSE, down=DENSE, experts=ExpertSpec(), bias=biased,
        output_bias=biased,
    )  # fmt: skip
    cross = layer.cross and replace(layer.cross, query=DENSE, key=DENSE, value=DENSE, output=DENSE)
    return replace(layer, attention=attention, ffn=ffn, cross=cross)


def _tensors(
    source: Checkpoint, spec: TransformerSpec, dtype: torch.dtype, keep_int8: bool
) -> Iterator[tuple[str, Tensor]]:
    """The source's tensors, multiplied out and padded, then the biases that it lacks. keep_int8: of layers' linears."""
    scales = {name: tensor for name, tensor in read_tensors(source) if name.endswith("_scale")}
    width, present = 0 if _keeps_widths(spec) else spec.layers[0].ffn.width, set()
    for name, tensor in read_tensors(source):
        if is_sparse_tensor(name) or name in scales:
            continue
        present.add(name)
        if keep_int8 and _LINEAR.fullmatch(name):
            yield name, _padded(name, tensor, width)
            yield f"{name}_scale", _padded(name, scales[f"{name}_scale"].unsqueeze(1), width, is_scale=True)
        else:
            yield name, _padded(name, multiplied_out(name, tensor, scales), width).to(dtype)
    for i, layer in enumerate(spec.layers):
        biased = layer.ffn.output_bias and not _keeps_widths(spec)
        sizes = {"up": width, "gate": width, "down": spec.hidden_size} if biased else {}
        for linear, size in sizes.items():
            name = f"layers.{i}.ffn.{linear}.bias"
            if name not in present and (linear != "gate" or layer.ffn.gated):
                yield name, torch.zeros(size, dtype=dtype)


def _padded(name: str, tensor: Tensor, width: int, is_scale: bool = False) -> Tensor:
    """FFN tensors, or the scales of their rows, with neurons of zeros behind theirs; as they are for a width of 0."""
    if not width:
        return tensor
    _, _, leaf = name.partition(".ffn.")
    if leaf == "down.weight" and not is_scale:
        return functional.pad(tensor, (0, width - tensor.shape[1]))
    if leaf in ("up.weight", "gate.weight"):
        return functional.pad(tensor, (0, 0, 0, width - tensor.shape[0]))
    if leaf in ("up.bias", "gate.bias"):
        return functional.pad(tensor, (0, width - tensor.shape[0]))
    return tensor
