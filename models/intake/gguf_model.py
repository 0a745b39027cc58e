"""A GGUF file of the Llama architecture as a Hugging Face directory, tensor by tensor.

GGUF keeps the rows of query and key so that the two numbers of a rotary pair are neighbours; Hugging Face keeps the
first numbers of all pairs, then the second. All else is names, types and where a value is written.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from gguf.quants import dequantize
from torch import Tensor

from ..checkpoint import DTYPES
from ..errors import CheckpointError
from ..families.config import Config
from ..families.registry import FAMILIES, Family
from ..files import new_directory, require_space, writing
from ..progress import Progress
from ..rope import inverse_frequencies
from ..spec import AttentionSpec, RopeSpec, TransformerSpec
from ..transformer import Transformer
from ..writer import write_weights
from .gguf_header import READABLE, GGUFHeader, GGUFTensor, read_gguf_header
from .gguf_tokenizer import write_tokenizer
from .gguf_values import Values
from .registry import check_dtype

ARCHITECTURES = ("llama",)
NAMES = {
    "embedding": "token_embd",
    "layers.{}.attention_norm": "blk.{}.attn_norm",
    "layers.{}.attention.query": "blk.{}.attn_q",
    "layers.{}.attention.key": "blk.{}.attn_k",
    "layers.{}.attention.value": "blk.{}.attn_v",
    "layers.{}.attention.output": "blk.{}.attn_output",
    "layers.{}.ffn_norm": "blk.{}.ffn_norm",
    "layers.{}.ffn.gate": "blk.{}.ffn_gate",
    "layers.{}.ffn.up": "blk.{}.ffn_up",
    "layers.{}.ffn.down": "blk.{}.ffn_down",
    "norm": "output_norm",
    "untied_head": "output",
}
_OURS = FAMILIES["llama"]
_THEIRS = Family("llama", _OURS.spec, NAMES, unused=r"\.attn_rot_embd$|^rope_freqs$")
_ROPE_FACTORS = "rope_freqs.weight"
_REFUSED = {
    "llama.expert_count": ((0,), "it has experts"),
    "llama.rope.scaling.type": (("none", "linear"), "positions are stretched"),
    "llama.rope.scale_linear": ((1.0,), "positions are stretched"),
    "llama.attention.scale": ((0.0, 1.0), "attention has a scale of its own"),
    "llama.logit_scale": ((0.0, 1.0), "logits are scaled"),
    "llama.embedding_scale": ((0.0, 1.0), "embeddings are scaled"),
    "llama.residual_scale": ((0.0, 1.0), "residuals are scaled"),
}
_CHUNK_BYTES = 256 << 10  # of the file at a time: dequantizing takes several times as much in fp32
_SPARE_BYTES = 16_000_000


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the result is to be: its config, and each of our tensors by its name in the file."""

    file: str
    tensors: Mapping[str, GGUFTensor]
    config: Mapping[str, Any]
    attention: AttentionSpec
    ours: Mapping[str, tuple[str, tuple[int, ...]]]  # their name -> our name, shape

    @property
    def num_values(self) -> int:
        return sum(prod(shape) for _, shape in self.ours.values())


def import_gguf(
    file: str | Path, out: str | Path, dtype: str = "bfloat16", progress: Progress = lambda *_: None
) -> Path:
    """Makes the directory `out` of a GGUF file; it appears whole or not at all. Returns `out`.

    dtype is that of the weights on disk. Raises CheckpointError for a file that is damaged or of another
    architecture, OutputError where `out` exists or the disk is full.
    """
    check_dtype(dtype)
    file, out = Path(file).expanduser(), Path(out).expanduser()
    if not file.is_file():
        raise CheckpointError(f"{file} is {'not a file' if file.exists() else 'not there'}; name a .gguf file")
    with file.open("rb") as stream, new_directory(out) as folder:
        convert_gguf(stream, file.stat().st_size, file.name, folder, dtype, progress, out)
    return out


def convert_gguf(
    stream: IO[bytes], size: int, file: str, folder: Path, dtype: str, progress: Progress, out: Path | None = None
) -> None:
    """Writes the model of a GGUF stream of `size` bytes to `folder`; the stream is read forwards.

    out: what `folder` becomes, where its caller cannot know how large that is and the disk is to be judged here.
    """
    plan = _prepared(stream, size, file, folder)
    num_bytes = plan.num_values * DTYPES[dtype].itemsize + _SPARE_BYTES
    if out:
        require_space(out, num_bytes)
    with writing(out, num_bytes) if out else nullcontext():
        (folder / "config.json").write_text(json.dumps({**plan.config, "dtype": dtype}, indent=2) + "\n")
        write_weights(folder, _weights(stream, plan, DTYPES[dtype], progress), _OURS.their_name)


def _prepared(stream: IO[bytes], size: int, file: str, folder: Path) -> _Plan:
    """Judges the header and writes the tokenizer; the vocabulary is out of memory before the first weight is read."""
    header = read_gguf_header(stream, size, file)
    values = Values(header)
    _check_kind(values, header)
    num_tokens, token_ids = write_tokenizer(folder, values)
    config = _config(header, values, _rope_scaling(header, values, stream)) | token_ids
    if num_tokens > config["vocab_size"]:
        raise CheckpointError(f"{file}: {num_tokens:,} tokens, and {config['vocab_size']:,} rows of embedding")
    return _plan(header, config)


def _check_kind(values: Values, header: GGUFHeader) -> None:
    """Refuses what cannot be run, before any of it is read."""
    architecture = values.text("general.architecture", "")
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(f"{values.file}: its architecture is {architecture[:80]!r}; moesaic imports {known}")
    values.refuse("split.count", (0, 1), "it is one part of several, which must be merged first")
    for key, (neutral, why) in _REFUSED.items():
        values.refuse(key, neutral, why)
    for tensor in header.tensors.values():
        if tensor.kind.name not in READABLE:
            raise CheckpointError(
                f"{values.file}: {tensor.name} is {tensor.kind.name}; moesaic reads {', '.join(READABLE)}"
            )


def _plan(header: GGUFHeader, config: Mapping[str, Any]) -> _Plan:
    if config["num_hidden_layers"] > len(header.tensors):
        raise CheckpointError(f"{header.file}: llama.block_count is more than its {len(header.tensors):,} tensors")
    try:
        spec = _OURS.spec(Config(config))
        ours = _needed(spec)
    except CheckpointError as error:
        raise CheckpointError(f"{header.file}: {str(error).removeprefix('config.json: ')}") from None
    except RuntimeError:  # more than 2^64 bytes
        raise CheckpointError(f"{header.file} describes tensors that are too large to exist") from None
    _check_tensors(header, ours)
    return _Plan(header.file, header.tensors, config, spec.layers[0].attention, ours)


def _config(header: GGUFHeader, values: Values, scaling: dict[str, Any] | None) -> dict[str, Any]:
    heads, hidden = values.count("llama.attention.head_count"), values.count("llama.embedding_length")
    head_size = values.count("llama.attention.key_length", max(hidden // heads, 1))
    for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
        if values.count(key, head_size) != head_size:
            raise CheckpointError(f"{values.file}: {key} is not the size of a head, {head_size}; moesaic cannot run it")
    if "token_embd.weight" not in header.tensors:
        raise CheckpointError(f"{values.file} has no tensor token_embd.weight")
    ends = [name.rpartition(".")[0].rpartition(".")[2] for name in header.tensors if name.endswith(".bias")]
    config = {
        "architectures": [_OURS.architecture],
        "model_type": "llama",
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "intermediate_size": values.count("llama.feed_forward_length"),
        "num_hidden_layers": values.count("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": values.count("llama.attention.head_count_kv", heads),
        "head_dim": head_size,
        "hidden_act": "silu",
        "max_position_embeddings": values.count("llama.context_length"),
        "rms_norm_eps": values.number("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": values.number("llama.rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "attention_bias": any(end.startswith("attn_") for end in ends),
        "mlp_bias": any(end.startswith("ffn_") for end in ends),
    }
    return config | ({"rope_scaling": scaling} if scaling else {})


def _rope_scaling(header: GGUFHeader, values: Values, stream: IO[bytes]) -> dict[str, Any] | None:
    """Linear scaling stands in the values; that of Llama 3 as what each frequency is divided by."""
    tensor = header.tensors.get(_ROPE_FACTORS)
    theta = values.number("llama.rope.freq_base", 10000.0)
    if values.text("llama.rope.scaling.type", "none") == "linear" and tensor is None:
        return {"rope_type": "linear", "factor": values.number("llama.rope.scaling.factor")}
    if tensor is None:
        return None
    factors = torch.cat([chunk.flatten() for chunk in _chunks(stream, tensor, values.file)])
    rope = RopeSpec(theta, "llama3", float(factors.max()), 1.0, 4.0, original_context=8192)
    size = 2 * len(factors)
    expected = inverse_frequencies(RopeSpec(theta), size) / inverse_frequencies(rope, size)
    if not torch.allclose(factors, expected, rtol=1e-3):
        raise CheckpointError(f"{values.file}: {_ROPE_FACTORS} are not those of Llama 3; moesaic cannot run them")
    return {
        "rope_type": "llama3", "factor": rope.factor, "low_freq_factor": rope.low_frequency_factor,
        "high_freq_factor": rope.high_frequency_factor, "original_max_position_embeddings": rope.original_context,
    }  # fmt: skip


def _needed(spec: TransformerSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
    with torch.device("meta"):
        state = Transformer(spec).state_dict()
    return {_THEIRS.their_name(ours): (ours, tuple(tensor.shape)) for ours, tensor in state.items()}


def _check_tensors(header: GGUFHeader, ours: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """Every tensor that is needed is there in its shape, and none that would be left out."""
    for name, (_, shape) in ours.items():
        tensor = header.tensors.get(name)
        if tensor is None and not name.endswith(".bias"):
            raise CheckpointError(f"{header.file} has no tensor {name}")
        if tensor is not None and tensor.shape != shape:
            raise CheckpointError(f"{header.file}: {name} is {list(tensor.shape)}, it must be {list(shape)}")
    for name in header.tensors:
        if name not in ours and not _THEIRS.is_unused(name.removesuffix(".weight")):
            raise CheckpointError(f"{header.file} has a tensor {name[:100]!r}, which no model of this kind has")


def _weights(stream: IO[bytes], plan: _Plan, dtype: torch.dtype, progress: Progress) -> Iterator[tuple[str, Tensor]]:
    """(our name, tensor), in the order in which they lie in the file; then the biases that it leaves out."""
    tensors = [t for t in sorted(plan.tensors.values(), key=lambda t: t.begin) if t.name in plan.ours]
    for done, tensor in enumerate(tensors, 1):
        ours, shape = plan.ours[tensor.name]
        weight = torch.empty(shape, dtype=dtype)
        rows, at = weight.view(-1, shape[-1]), 0
        for chunk in _chunks(stream, tensor, plan.file):
            target = rows[at : at + len(chunk)]
            at += len(chunk)
            if not torch.isfinite(target.copy_(chunk)).all():
                raise CheckpointError(f"{plan.file}: {tensor.name} holds NaN, infinity or what {dtype} cannot hold")
        yield ours, _for_half_rotation(weight, ours, plan.attention)
        progress("tensors converted", done, len(tensors))
    for name, (ours, shape) in plan.ours.items():
        if name not in plan.tensors:
            yield ours, torch.zeros(shape, dtype=dtype)


def _chunks(stream: IO[bytes], tensor: GGUFTensor, file: str) -> Iterator[Tensor]:
    """fp32 [some rows, columns] until all rows are read."""
    stream.seek(tensor.begin)
    step = max(_CHUNK_BYTES // tensor.row_bytes, 1) * tensor.row_bytes
    for at in range(0, tensor.num_bytes, step):
        data = stream.read(min(step, tensor.num_bytes - at))
        if len(data) != min(step, tensor.num_bytes - at):
            raise CheckpointError(f"{file} ends inside {tensor.name}; copy it again")
        raw = np.frombuffer(data, np.uint8).reshape(-1, tensor.row_bytes)
        with np.errstate(all="ignore"):  # what is not finite is said afterwards
            values = dequantize(raw, tensor.kind)
        yield torch.from_numpy(np.require(values, np.float32, "W"))


def _for_half_rotation(weight: Tensor, ours: str, attention: AttentionSpec) -> Tensor:
    """Rows of query and key: pairs of neighbours -> first halves, then second halves, head by head."""
    heads = {"query": attention.num_heads, "key": attention.num_kv_heads}.get(ours.split(".")[-2])
    if heads is None:
        return weight
    return weight.view(heads, attention.head_size // 2, 2, -1).transpose(1, 2).reshape(weight.shape)
