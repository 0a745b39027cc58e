"""A model as a GGUF file, as llama.cpp opens it: the same table of names and orders that reads one, backwards.

The file is laid out before any weight is read; then each tensor of ours is written where it belongs, in whatever order
it comes, so that no more than one of them is in memory.
"""

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize
from torch import Tensor

from ..errors import CheckpointError
from ..families.config import Config
from ..families.registry import FAMILIES
from ..rope import inverse_frequencies
from ..spec import RopeSpec, TransformerSpec, spec_overrides
from .architectures import NAMES, Architecture, Place, architecture_of
from .header import GGUFTensor, read_gguf_header
from .pooling import pooling_values
from .reader import config_in, shapes_of
from .rows import in_pairs, offset_of
from .sayable import check_biases, head_shape, named, said_tensors, sayable
from .scaling import FACTORS, factors_of
from .spec_values import Said, spec_values
from .tokenizer_out import start_values, tokenizer_values
from .values import Values

KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0")
_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2}
_QUANTIZATION_VERSION = 2
_WHOLE = (  # stay fp32, as llama.cpp has them
    "position_embd.weight", "token_types.weight", "ffn_gate_inp.weight", "attn_rel_b.weight",
)  # fmt: skip
_ENDS = ("token_embd.weight", "output.weight")  # which a file of Q4_0 has in Q8_0
_STEP_VALUES = 1 << 22  # that are rounded at a time


def write_gguf(
    file: Path, name: str, spec: TransformerSpec, tensors: Iterable[tuple[str, Tensor]], kind: str, beside: Path | None
) -> dict[str, int]:
    """Writes a dense model, whose tensors come under our names. Returns how many tensors are of which kind.

    kind: one of KINDS, of matrices; rows that its blocks do not divide are F16, vectors F32. beside: the directory with
    the tokenizer, or None for a file without. Raises CheckpointError for what a file cannot say.
    """
    architecture = _architecture(spec)
    said = sayable(spec, architecture)
    shapes = shapes_of(said) | head_shape(said)
    check_biases(shapes, architecture)
    places = architecture.places(shapes)
    values: list[Said] = [
        ("general.name", name),
        ("general.file_type", _FILE_TYPES[kind]),
        *tokenizer_values(beside, spec),
    ]
    if said.token_types:
        values.append(("tokenizer.ggml.token_type_count", said.token_types))
    sizes = [*spec_values(said, architecture), *(start_values if spec.encoder else pooling_values)(beside, spec)]
    values += [(f"{architecture.name}{key}", value) for key, value in sizes]
    _lay_out(
        file, architecture.name, values, {place.name: (place, _kind(place, kind)) for place in places.values()}, said
    )
    there = _laid_out(file, said, architecture)
    with file.open("r+b") as stream:
        _write_factors(stream, there, said)
        missing = set(shapes)
        for ours, tensor in said_tensors(tensors, shapes, spec):
            rows = in_pairs(tensor.float() + offset_of(ours, architecture), ours, architecture, said)
            _write(stream, there[places[ours].name], places[ours].first, rows)
            missing.discard(ours)
    if missing:
        raise CheckpointError(f"{name} lacks {min(missing)}, which its config asks for")
    kinds = [each.kind.name for each in there.values()]
    return {each: kinds.count(each) for each in dict.fromkeys(kinds)}


def _architecture(spec: TransformerSpec) -> Architecture:
    found = architecture_of(spec.family)
    if found is None:
        raise CheckpointError(
            f"GGUF has no architecture for models of the family {spec.family}; it has those of {', '.join(NAMES)}; "
            "export --to dense"
        )
    return found


def _kind(place: Place, kind: str) -> str:
    """Of a tensor in a file whose matrices are of this kind."""
    if len(place.shape) == 1 or place.name.endswith(_WHOLE):
        return "F32"
    kind = "Q8_0" if kind == "Q4_0" and place.name in _ENDS else kind
    return kind if place.shape[-1] % GGML_QUANT_SIZES[GGMLQuantizationType[kind]][0] == 0 else "F16"


def _lay_out(
    file: Path,
    architecture: str,
    values: Iterable[Said],
    tensors: Mapping[str, tuple[Place, str]],
    spec: TransformerSpec,
) -> None:
    """Writes the header, and leaves room for the data."""
    writer: Any = importlib.import_module("gguf").GGUFWriter(file, architecture)
    writer.add_quantization_version(_QUANTIZATION_VERSION)
    for key, value in values:
        _add(writer, key, value)
    end = 0
    shapes = {name: (place.shape, kind) for name, (place, kind) in tensors.items()}
    if spec.rope and spec.rope.scaling == "llama3":
        shapes[FACTORS] = ((_turned(spec, spec.rope) // 2,), "F32")
    for name, (shape, kind) in shapes.items():
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
        num_bytes = prod(shape) // block * block_bytes
        writer.add_tensor_info(name, shape, np.dtype(np.float32), num_bytes, GGMLQuantizationType[kind])
        end += writer.ggml_pad(num_bytes, writer.data_alignment)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_ti_data_to_file):
        write()
    writer.close()
    with file.open("r+b") as stream:
        size = stream.seek(0, 2)
        stream.truncate(writer.ggml_pad(size, writer.data_alignment) + end)


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, list) and not value:
        kinds = importlib.import_module("gguf").GGUFValueType
        writer.add_key_value(key, value, kinds.ARRAY, kinds.STRING)
        return
    add = {list: writer.add_array, str: writer.add_string, bool: writer.add_bool, float: writer.add_float32}
    (add | {bytes: writer.add_array}).get(type(value), writer.add_uint32)(key, value)


def _laid_out(file: Path, spec: TransformerSpec, architecture: Architecture) -> Mapping[str, GGUFTensor]:
    """The tensors of the file, once our own reader has found this model in it."""
    with file.open("rb") as stream:
        header = read_gguf_header(stream, file.stat().st_size, file.name)
    factors = factors_of(spec.rope, _turned(spec, spec.rope)) if spec.rope and FACTORS in header.tensors else None
    config = config_in(header, Values(header), architecture, factors)
    found = FAMILIES[architecture.family].spec(Config(config))
    rope, local = (_same_rope(*each, spec) for each in ((found.rope, spec.rope), (found.local_rope, spec.local_rope)))
    found = replace(found, family=spec.family, rope=rope, local_rope=local)
    if differs := spec_overrides(spec, found):
        path, value = next(iter(differs.items()))
        raise CheckpointError(
            f"{named(architecture)} cannot say what this model is: {path} is {value!r}, and llama.cpp would compute "
            f"another; export --to dense"
        )
    return header.tensors


def _same_rope(theirs: RopeSpec | None, ours: RopeSpec | None, spec: TransformerSpec) -> RopeSpec | None:
    """Ours, where theirs turns as far; theirs where not."""
    if theirs is None or ours is None:
        return theirs
    size = spec.layers[0].attention.head_size
    one, other = inverse_frequencies(theirs, size), inverse_frequencies(ours, size)
    same = one.shape == other.shape and torch.allclose(one, other, rtol=1e-5)
    return ours if same and abs(theirs.magnitude - ours.magnitude) < 1e-6 else theirs


def _turned(spec: TransformerSpec, rope: RopeSpec) -> int:
    return rope.rotated or spec.layers[0].attention.head_size


def _write_factors(stream: IO[bytes], there: Mapping[str, GGUFTensor], spec: TransformerSpec) -> None:
    if spec.rope and FACTORS in there:
        _write(stream, there[FACTORS], 0, factors_of(spec.rope, _turned(spec, spec.rope)))


def _write(stream: IO[bytes], tensor: GGUFTensor, first: int, rows: Tensor) -> None:
    """Rows from `first` on, rounded to the tensor's kind; a vector's rows are its values."""
    row_bytes = tensor.num_bytes // tensor.shape[0] if len(tensor.shape) == 1 else tensor.row_bytes
    stream.seek(tensor.begin + first * row_bytes)
    for part in torch.split(rows, max(_STEP_VALUES // max(prod(rows.shape[1:]), 1), 1)):
        with np.errstate(over="ignore"):
            made = quantize(part.numpy(), tensor.kind)
        if tensor.kind.name == "F16" and not np.isfinite(made).all():
            raise CheckpointError(f"{tensor.name} holds values too large for F16; choose BF16, F32 or Q8_0")
        stream.write(made.tobytes())
