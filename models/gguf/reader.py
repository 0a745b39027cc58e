"""A GGUF file as a Hugging Face directory, tensor by tensor.

What differs between the two is names, types, where a value is written, how the rows of query and key are ordered, and
what is added to the weights of norms; architectures.py has all of it.
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
from ..families.registry import FAMILIES
from ..files import new_directory, require_space, writing
from ..intake.registry import check_dtype
from ..layout import Layout
from ..progress import Progress
from ..spec import TransformerSpec
from ..transformer import Transformer
from ..writer import write_weights
from .architectures import NAMES, Architecture, Place, architectures_named
from .config import Read, config_of
from .header import READABLE, GGUFHeader, GGUFTensor, read_gguf_header
from .pooling import write_pooling_of
from .rows import in_halves, offset_of
from .scaling import FACTORS, scaling_of
from .spec_values import has_scaled_head
from .tokenizer import write_tokenizer
from .values import Values

_EMBEDDING = "token_embd.weight"
_UNUSED = (FACTORS, "attn_rot_embd.weight", "cross_attn_rel_b.weight")
_HEAD = "output.weight"
_ZEROS = (".bias", "token_types.weight")  # what is 0 where a file leaves it out
_REFUSED = {
    ".rope.scaling.type": (("none", "linear", "yarn"), "positions are stretched"),
    ".rope.scale_linear": ((1.0,), "positions are stretched"),
    ".rope.scaling.attn_factor": ((0.0, 1.0), "positions are stretched"),
    ".rope.scaling.yarn_log_multiplier": ((0.0,), "positions are stretched"),
    ".attention.scale": ((0.0, 1.0), "attention has a scale of its own"),
    ".attention.max_alibi_bias": ((0.0,), "scores fall with distance"),
    ".attention.clamp_kqv": ((0.0,), "queries and keys are bounded"),
    ".logit_scale": ((0.0, 1.0), "logits are scaled"),
    ".embedding_scale": ((0.0, 1.0), "embeddings are scaled"),
    ".residual_scale": ((0.0, 1.0), "residuals are scaled"),
    ".expert_shared_count": ((0,), "it has experts that all tokens take"),
    ".expert_weights_scale": ((0.0, 1.0), "what experts give is scaled"),
}
_CHUNK_BYTES = 256 << 10  # of the file at a time: dequantizing takes several times as much in fp32
_SPARE_BYTES = 16_000_000
_MOST_FACTORS = 1 << 15


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the result is to be: its config, and where each of our tensors lies in the file."""

    file: str
    architecture: Architecture
    tensors: Mapping[str, GGUFTensor]
    config: Mapping[str, Any]
    spec: TransformerSpec
    shapes: Mapping[str, tuple[int, ...]]  # of ours, by our name
    places: Mapping[str, Place]

    @property
    def num_values(self) -> int:
        return sum(prod(shape) for shape in self.shapes.values())


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
    """Writes the model of a GGUF stream of `size` bytes to `folder`; it is read forwards, where no tensor holds two.

    out: what `folder` becomes, where its caller cannot know how large that is and the disk is to be judged here.
    """
    plan = _prepared(stream, size, file, folder)
    num_bytes = plan.num_values * DTYPES[dtype].itemsize + _SPARE_BYTES
    if out:
        require_space(out, num_bytes)
    with writing(out, num_bytes) if out else nullcontext():
        (folder / "config.json").write_text(json.dumps({**plan.config, "dtype": dtype}, indent=2) + "\n")
        family = FAMILIES[plan.architecture.family].of(plan.config)
        tensors = _weights(stream, plan, DTYPES[dtype], progress)
        write_weights(folder, Layout(family, plan.spec).stored(tensors), family.their_name)


def _prepared(stream: IO[bytes], size: int, file: str, folder: Path) -> _Plan:
    """Judges the header and writes the tokenizer; the vocabulary is out of memory before the first weight is read."""
    header = read_gguf_header(stream, size, file)
    values = Values(header)
    architecture = architecture_in(values)
    _check_kind(values, header)
    num_tokens, token_ids = write_tokenizer(folder, values)
    if architecture.family == "bert":
        write_pooling_of(values, folder)
    config = config_in(header, values, architecture, _factors(header, stream)) | token_ids
    if num_tokens > config["vocab_size"]:
        raise CheckpointError(f"{file}: {num_tokens:,} tokens, and {config['vocab_size']:,} rows of embedding")
    return _plan(header, architecture, config)


def architecture_in(values: Values) -> Architecture:
    """How a file has its model. Raises CheckpointError with the list of those that are read."""
    found = architectures_named(values.architecture)
    if not found:
        raise CheckpointError(
            f"{values.file}: its architecture is {values.architecture[:80]!r}; moesaic imports {', '.join(NAMES)}"
        )
    signs = {"mixtral": ".expert_count", "olmo3": ".attention.sliding_window"}
    rarer = [each for each in found if values.asks(signs.get(each.family, ""))]
    return (rarer or found)[0]


def config_in(header: GGUFHeader, values: Values, architecture: Architecture, factors: Tensor | None) -> dict[str, Any]:
    """The config.json of what a header describes."""
    if _EMBEDDING not in header.tensors:
        raise CheckpointError(f"{values.file} has no tensor {_EMBEDDING}")
    stems = {
        name.split(".", 2)[2] if name.startswith("blk.") and name.count(".") > 2 else name for name in header.tensors
    }
    vocab_size, scaling = header.tensors[_EMBEDDING].shape[0], scaling_of(values, factors)
    return config_of(Read(values, architecture, vocab_size, stems, scaling))


def _check_kind(values: Values, header: GGUFHeader) -> None:
    """Refuses what cannot be run, before any of it is read."""
    values.refuse("split.count", (0, 1), "it is one part of several, which must be merged first")
    for key, (neutral, why) in _REFUSED.items():
        values.refuse(key, neutral, why)
    for tensor in header.tensors.values():
        if tensor.kind.name not in READABLE:
            raise CheckpointError(
                f"{values.file}: {tensor.name} is {tensor.kind.name}; moesaic reads {', '.join(READABLE)}"
            )


def _factors(header: GGUFHeader, stream: IO[bytes]) -> Tensor | None:
    """What each frequency is divided by, where a tensor says it."""
    tensor = header.tensors.get(FACTORS)
    if tensor is None:
        return None
    if len(tensor.shape) != 1 or tensor.shape[0] > _MOST_FACTORS:
        raise CheckpointError(f"{header.file}: {FACTORS} is {list(tensor.shape)}, it must be half a head's size")
    return next(_chunks(stream, tensor, header.file, 0, tensor.shape[0]))


def _plan(header: GGUFHeader, architecture: Architecture, config: Mapping[str, Any]) -> _Plan:
    try:
        spec = FAMILIES[architecture.family].spec(Config(config))
        _check_counts(header, spec)
        shapes = shapes_of(spec)
        places = architecture.places(shapes)
    except CheckpointError as error:
        raise CheckpointError(f"{header.file}: {str(error).removeprefix('config.json: ')}") from None
    except RuntimeError:  # more than 2^64 bytes
        raise CheckpointError(f"{header.file} describes tensors that are too large to exist") from None
    _check_tensors(header, places, spec)
    return _Plan(header.file, architecture, header.tensors, config, spec, shapes, places)


def _check_counts(header: GGUFHeader, spec: TransformerSpec) -> None:
    """Refuses more layers and experts than its tensors have rows for, before any of them is made."""
    experts = max(layer.ffn.mixture.num_experts for layer in spec.layers)
    most = max((tensor.shape[0] for tensor in header.tensors.values() if len(tensor.shape) == 3), default=0)
    layers = len(spec.layers) + (len(spec.encoder.layers) if spec.encoder else 0)
    if layers > len(header.tensors) or experts > most:
        raise CheckpointError(
            f"{layers:,} layers of {experts:,} experts are more than its {len(header.tensors):,} tensors hold"
        )


def shapes_of(spec: TransformerSpec) -> dict[str, tuple[int, ...]]:
    """Of each of our tensors of a model."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in Transformer(spec).state_dict().items()}


def _check_tensors(header: GGUFHeader, places: Mapping[str, Place], spec: TransformerSpec) -> None:
    """Every tensor that is needed is there in its shape, and none that would be left out."""
    wanted = {place.name: place.shape for place in places.values()}
    for name, shape in wanted.items():
        tensor = header.tensors.get(name)
        if tensor is None and not name.endswith(_ZEROS):
            raise CheckpointError(f"{header.file} has no tensor {name}")
        if tensor is not None and tensor.shape != shape:
            raise CheckpointError(f"{header.file}: {name} is {list(tensor.shape)}, it must be {list(shape)}")
    for name in header.tensors:
        scaled_head = name == _HEAD and has_scaled_head(spec)
        if name not in wanted and not name.endswith(_UNUSED) and not scaled_head:
            raise CheckpointError(f"{header.file} has a tensor {name[:100]!r}, which no model of this kind has")


def _weights(stream: IO[bytes], plan: _Plan, dtype: torch.dtype, progress: Progress) -> Iterator[tuple[str, Tensor]]:
    """(our name, tensor), in the order in which they lie in the file; then what it leaves out and is 0."""
    there = [(ours, place) for ours, place in plan.places.items() if place.name in plan.tensors]
    there.sort(key=lambda pair: (plan.tensors[pair[1].name].begin, pair[1].first))
    for done, (ours, place) in enumerate(there, 1):
        yield ours, in_halves(_weight(stream, plan, ours, place, dtype), ours, plan.architecture, plan.spec)
        progress("tensors converted", done, len(there))
    for ours, place in plan.places.items():
        if place.name not in plan.tensors:
            yield ours, torch.zeros(plan.shapes[ours], dtype=dtype)


def _weight(stream: IO[bytes], plan: _Plan, ours: str, place: Place, dtype: torch.dtype) -> Tensor:
    """A tensor of ours, its rows as the file has them."""
    tensor, shape = plan.tensors[place.name], plan.shapes[ours]
    weight, offset, at = torch.empty(shape, dtype=dtype), offset_of(ours, plan.architecture), 0
    for chunk in _chunks(stream, tensor, plan.file, place.first, shape[0]):
        target = weight[at : at + len(chunk)]
        at += len(chunk)
        if not torch.isfinite(target.copy_(chunk - offset if offset else chunk)).all():
            raise CheckpointError(f"{plan.file}: {tensor.name} holds NaN, infinity or what {dtype} cannot hold")
    return weight


def _chunks(stream: IO[bytes], tensor: GGUFTensor, file: str, first: int, count: int) -> Iterator[Tensor]:
    """fp32 [some rows, columns], `count` rows from `first` on; the rows of a vector are its values."""
    if len(tensor.shape) == 1:
        stream.seek(tensor.begin)
        yield _dequantized(stream, tensor, file, tensor.num_bytes)[0, first : first + count]
        return
    stream.seek(tensor.begin + first * tensor.row_bytes)
    step = max(_CHUNK_BYTES // tensor.row_bytes, 1)
    for at in range(0, count, step):
        yield _dequantized(stream, tensor, file, min(step, count - at) * tensor.row_bytes)


def _dequantized(stream: IO[bytes], tensor: GGUFTensor, file: str, num_bytes: int) -> Tensor:
    """fp32 [rows, columns] of the next bytes."""
    data = stream.read(num_bytes)
    if len(data) != num_bytes:
        raise CheckpointError(f"{file} ends inside {tensor.name}; copy it again")
    raw = np.frombuffer(data, np.uint8).reshape(-1, tensor.row_bytes)
    with np.errstate(all="ignore"):  # what is not finite is said afterwards
        values = dequantize(raw, tensor.kind)
    return torch.from_numpy(np.require(values, np.float32, "W"))
