"""A model directory, opened and judged before any weight is read; and the model made from it.

A checkpoint is config.json, safetensors weights (one file, or shards with an index), tokenizer.json,
generation_config.json and, once moesaic has worked on it, moesaic.json. Nothing in it is ever run: pickle files
and `auto_map` are refused.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..kernels.dense_linear import keeps_bf16
from .dial import Dial
from .errors import CheckpointError
from .families.config import Config
from .families.embedding import family_in
from .families.registry import Family, family_of, is_sparse_tensor
from .ffn.registry import check_ffn
from .foreign_int8 import as_ours, int8_format, int8_linears
from .labels import Labels, labels_of
from .layout import Layout
from .linear import CentredLinear, Embedding, Graded, Int8Embedding
from .links import check_inside
from .locate import locate
from .packing import Beside, pack_
from .record import RECORD_NAME, Record
from .rope import check_rope
from .safetensors_header import TensorEntry, read_header
from .sinusoids import Sinusoids
from .spec import FULL, TransformerSpec, with_overrides
from .suggestion import resaved
from .surplus import check_surplus, find, has_head_of_its_own
from .tensor_reader import FLOATS, all_finite, read_tensor
from .transformer import Transformer

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
EXPERTS_NAME = "moesaic/experts.safetensors"  # in a folder of its own: other loaders stop at unknown tensors
MADE_BY = "moesaic"  # in quantization_config, which has no quant_method: other loaders stop there
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_MAX_JSON_BYTES = 16 << 20
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A directory whose parts agree: config, family, spec, and every tensor that the spec needs at its shape."""

    path: Path
    config: Mapping[str, Any]
    family: Family
    default_spec: TransformerSpec
    spec: TransformerSpec
    entries: Mapping[str, TensorEntry]  # by our name
    record: Record = field(default_factory=Record)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors on disk."""
        return sum(entry.num_bytes for entry in self.entries.values())

    @property
    def labels(self) -> Labels | None:
        """What its classifier tells apart; None where it has none."""
        return labels_of(self.config) if self.spec.classifies else None

    @property
    def tiers(self) -> tuple[str, ...]:
        """Names of the tiers, the full one first."""
        return (FULL, *(tier.name for tier in self.record.tiers))

    @property
    def dial(self) -> Dial:
        """The operating points of the tiers, and what lies between them."""
        return Dial.of(self.record.tiers)

    def operating_point(self, tier: str | None) -> int:
        """The operating point of a tier by its name: 0 of the full one or of None. Raises Unsupported with the list."""
        return int(self.dial.operating_point(tier, None))

    def stored_dtype(self, name: str) -> torch.dtype | None:
        """The dtype of the tensor that we call so, or of its weight where a bias is not there. None for neither."""
        entry = self.entries.get(name) or self.entries.get(f"{name.removesuffix('bias')}weight")
        return FLOATS.get(entry.dtype) if entry else None

    @property
    def files(self) -> tuple[Path, ...]:
        """The safetensors files, in order."""
        return tuple(sorted({entry.file for entry in self.entries.values()}))


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Reads config and headers, and no weight. Raises CheckpointError with what is wrong and the way out."""
    folder = locate(path)
    config = read_json(folder / "config.json")
    family = family_in(folder, config)
    default = family.spec(Config(config))
    record = Record.read(folder)
    int8 = _check_quantization(config.get("quantization_config"), folder)
    found = _file_entries(folder) if int8 is None else as_ours(_file_entries(folder))
    if default.tied_head and has_head_of_its_own(found, family):
        config = family.untied(config)
        default = family.spec(Config(config))
    try:
        own = record.spec if int8 is None else int8_linears(found, family, default, int8)
        spec = with_overrides(default, own)
        layers = (*spec.layers, *(spec.encoder.layers if spec.encoder else ()))
        widest = max((layer.ffn.width for layer in layers), default=0)
        for layer in layers:
            check_ffn(layer.ffn, spec.num_tiers, widest)
            check_rope(spec, layer.attention.head_size)
        for tier in record.tiers:
            tier.check(len(spec.layers))
    except KeyError as error:
        raise CheckpointError(f"{RECORD_NAME}: the model has no {error.args[0]!r} to override") from None
    except ValueError as error:
        raise CheckpointError(f"{RECORD_NAME}: {error}; make the checkpoint again") from None
    if spec.num_tiers != len(record.tiers) + 1:
        raise CheckpointError(
            f"{RECORD_NAME} names {len(record.tiers)} tiers for a spec of {spec.num_tiers - 1}; "
            "make the checkpoint again"
        )
    entries = _matched(found, family, spec)
    return Checkpoint(folder, config, family, default, spec, entries, record)


def load(
    path: str | Path, tier: str = FULL, device: str | torch.device = "cpu", dtype: str | None = None
) -> Transformer:
    """The model of a directory or short name: token_ids [batch, tokens] -> logits [batch, tokens, vocab].

    tier: the name of how much of each FFN it computes. dtype is that of the arithmetic; by default float32 on a CPU,
    else what is on disk. On a CPU, bf16 weights stay bf16 in memory under float32 arithmetic.
    """
    checkpoint = open_checkpoint(path)
    operating_point = checkpoint.operating_point(tier)
    model = load_transformer(checkpoint, torch.device(device), dtype)
    model.operating_point = operating_point
    return model


def load_transformer(checkpoint: Checkpoint, device: torch.device, dtype: str | None = None) -> Transformer:
    """Builds the model and gives it its weights, tensor by tensor. Raises CheckpointError for damaged data."""
    wanted = compute_dtype(checkpoint, device, dtype)
    checkpoint.record.verify(checkpoint.path, checkpoint.files)
    with torch.device("meta"):
        model = Transformer(checkpoint.spec)
    weights = {}
    for name, tensor in read_tensors(checkpoint, Beside(checkpoint.entries)):
        if tensor.is_floating_point():
            tensor = _converted(tensor, _dtype_in_memory(name, tensor, wanted, device), name, checkpoint)
        weights[name] = tensor.to(device)
    model.load_state_dict(weights, strict=True, assign=True)
    weights.clear()  # what is packed below is freed as it is copied
    _check_grades(model, checkpoint)
    if checkpoint.spec.rope:
        model.frequencies = model.frequencies.to(device)
    for module in model.modules():
        if isinstance(module, Embedding | Int8Embedding | Sinusoids):
            module.dtype = wanted
    pack_(model)
    return model.requires_grad_(False).eval()


def _dtype_in_memory(name: str, tensor: Tensor, wanted: torch.dtype, device: torch.device) -> torch.dtype:
    """Scales and thresholds stay fp32; what routes, and under fp32 arithmetic matrices where it is faster, bf16."""
    if name.endswith(("weight_scale", "thresholds", "compensation", "worth", "centre")):
        return torch.float32
    if is_sparse_tensor(name):
        return tensor.dtype
    stays = tensor.dtype == torch.bfloat16 and tensor.dim() == 2 and wanted == torch.float32 and keeps_bf16(device)
    return torch.bfloat16 if stays else wanted


def _converted(tensor: Tensor, dtype: torch.dtype, name: str, checkpoint: Checkpoint) -> Tensor:
    """The tensor in another dtype; CheckpointError where a value is not finite, on disk or after it."""
    converted = tensor.to(dtype)
    if all_finite(converted):
        return converted
    where = f"{checkpoint.path.name}: {checkpoint.entries[name].name}"
    if all_finite(tensor):
        narrow = dtype == torch.float16
        way_out = "choose float32 or bfloat16" if narrow else "no dtype here holds them: scale them down"
        raise CheckpointError(f"{where} holds values too large for {str(dtype)[6:]}; {way_out}")
    raise CheckpointError(f"{where} holds NaN or infinity; copy the weights again")


def _check_grades(model: Transformer, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for what no grading gives: a full tier that leaves bits out, bits worth more than higher
    ones.
    """
    table = model.thresholds
    if table is not None and (table[0] != 0 or (table < 0).any()):
        where = _where("thresholds", table, checkpoint)
        raise CheckpointError(f"{where}, it must be 0 for the full tier and no less for others; copy it again")
    for name, module in model.named_modules():
        if isinstance(module, Graded) and ((module.worth < 0).any() or (module.worth.diff() > 0).any()):
            where = _where(f"{name}.worth", module.worth, checkpoint)
            raise CheckpointError(f"{where}, it must fall and be no less than 0; copy it again")
        if isinstance(module, CentredLinear) and not module.most_added.isfinite():
            where = f"{checkpoint.path.name}: {checkpoint.entries[f'{name}.centre'].name}"
            raise CheckpointError(f"{where} has values up to {float(module.centre.abs().max()):.3g}; copy it again")


def _where(name: str, tensor: Tensor, checkpoint: Checkpoint) -> str:
    return f"{checkpoint.path.name}: {checkpoint.entries[name].name} is {tensor.tolist()}"


def compute_dtype(checkpoint: Checkpoint, device: torch.device, dtype: str | None) -> torch.dtype:
    """What activations and dense weights are computed in. Raises CheckpointError for a name that is no dtype."""
    if dtype is not None and dtype not in DTYPES:
        raise CheckpointError(f"dtype is {dtype!r}, it must be one of {', '.join(DTYPES)}")
    if dtype is not None:
        return DTYPES[dtype]
    if device.type == "cpu":
        return torch.float32
    stored = {FLOATS[e.dtype] for e in checkpoint.entries.values() if e.dtype in FLOATS and len(e.shape) > 1}
    return stored.pop() if len(stored) == 1 else torch.bfloat16


def dense_dtype(checkpoint: Checkpoint, device: torch.device, dtype: str | None) -> torch.dtype:
    """What dense matrices are kept in, and so read in: bf16 under float32 arithmetic where they stay bf16."""
    wanted = compute_dtype(checkpoint, device, dtype)
    stored = {entry.dtype for entry in checkpoint.entries.values() if entry.dtype in FLOATS and len(entry.shape) > 1}
    stay = stored == {"BF16"} and wanted == torch.float32 and keeps_bf16(device)
    return torch.bfloat16 if stay else wanted


def read_tensors(checkpoint: Checkpoint, beside: Beside | None = None) -> Iterator[tuple[str, Tensor]]:
    """(our name, tensor) for every tensor, one at a time, file by file; beside: memory that some share."""
    for file in checkpoint.files:
        ours = [(name, entry) for name, entry in checkpoint.entries.items() if entry.file == file]
        with file.open("rb") as stream:
            for name, entry in sorted(ours, key=lambda pair: pair[1].begin):
                yield name, read_tensor(stream, entry, beside.memory(name) if beside else None)


def read_json(file: Path) -> dict[str, Any]:
    """Reads one JSON object from a small file. Raises CheckpointError where there is none."""
    try:
        if not file.is_file() and file.exists():
            raise CheckpointError(f"{file} is not a file")
        if file.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointError(f"{file.name} has more than {_MAX_JSON_BYTES:,} bytes; that is no model's config")
        value = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{file.parent} has no {file.name}; a model directory needs one") from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} must hold a JSON object")
    return value


def sha256_of(file: Path) -> str:
    """The hexadecimal SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _file_entries(folder: Path) -> dict[str, TensorEntry]:
    """Every tensor of the directory by its name in the files."""
    found: dict[str, TensorEntry] = {}
    experts = folder / EXPERTS_NAME
    check_inside(folder, experts)
    for file in (*_weight_files(folder), *([experts] if experts.is_file() else [])):
        for name, entry in read_header(file).items():
            if name in found:
                raise CheckpointError(f"{name} stands in {found[name].file.name} and in {file.name}")
            found[name] = entry
    return found


def _weight_files(folder: Path) -> list[Path]:
    """The whole file where it is there, as transformers has it: an index beside it is of other weights."""
    if (folder / WEIGHTS_NAME).is_file():
        return [folder / WEIGHTS_NAME]
    if (folder / INDEX_NAME).exists():
        names = read_json(folder / INDEX_NAME).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise CheckpointError(f"{INDEX_NAME} has no weight_map of file names")
        files = [folder / name for name in sorted(set(names.values()))]
        if bad := [file for file in files if file.parent != folder or file.suffix != ".safetensors"]:
            raise CheckpointError(f"{INDEX_NAME} points outside the directory: {bad[0]}")
        if missing := [file.name for file in files if not file.is_file()]:
            raise CheckpointError(f"{INDEX_NAME} names {missing[0]}, which is not in {folder}; copy it there")
        return files
    if pickles := sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern)):
        auto = "AutoModelForSeq2SeqLM" if _reads_sources(folder) else "AutoModelForCausalLM"
        command = f", with: {resaved(auto, folder)}" if pickles[0].startswith("pytorch_model") else ""
        raise CheckpointError(
            f"{folder} has its weights in {pickles[0]}, a pickle, which can run code when it is opened; "
            f"where you trust it, convert it to {WEIGHTS_NAME}{command}"
        )
    raise CheckpointError(f"{folder} has no {WEIGHTS_NAME}")


def _reads_sources(folder: Path) -> bool:
    return family_of(read_json(folder / "config.json")).reads_sources


def _check_quantization(config: Any, folder: Path) -> str | None:
    """The format of int8 linears that others wrote, or None. Raises CheckpointError for weights that are quantized in
    another way, and not by moesaic: their meaning hides in tensor names.
    """
    values = config if isinstance(config, dict) else {}
    if found := int8_format(values):
        return found
    ours = values.get("made_by") == MADE_BY and "quant_method" not in values
    if config and not ours:
        method = values.get("quant_method", config)
        raise CheckpointError(
            f"config.json: quantization_config asks for {method!r}, which moesaic does not read; start from "
            "the model before it was quantized, or from one in int8 of compressed-tensors or bitsandbytes"
        )
    if config and not (folder / RECORD_NAME).exists():
        raise CheckpointError(f"{folder} was quantized by moesaic but has no {RECORD_NAME}; copy it there")
    return None


def _matched(found: Mapping[str, TensorEntry], family: Family, spec: TransformerSpec) -> dict[str, TensorEntry]:
    """The files' tensors under our names. Missing, misshapen and unknown tensors are CheckpointErrors."""
    num_layers = len(spec.layers) + (len(spec.encoder.layers) if spec.encoder else 0)
    if len(found) < num_layers:
        raise CheckpointError(f"config.json asks for {num_layers:,} layers, the weights hold {len(found)} tensors")
    experts = sum(layer.ffn.mixture.num_experts for layer in spec.layers)
    if len(found) < experts:
        raise CheckpointError(f"config.json asks for {experts:,} experts, the weights hold {len(found)} tensors")
    try:
        with torch.device("meta"):
            needed = Transformer(spec).state_dict()
        shapes = {ours: tuple(tensor.shape) for ours, tensor in needed.items()}
    except RuntimeError:  # more than 2^64 bytes
        raise CheckpointError("config.json describes tensors that are too large to exist") from None
    entries, layout = dict[str, TensorEntry](), Layout(family, spec)
    for ours, wanted in needed.items():
        theirs = family.their_name(ours)
        entry = find(found, theirs, family)
        if entry is None and ours == "embedding.weight" and spec.tied_head and family.has_head:
            entry = find(found, family.their_name("untied_head.weight"), family)  # tied: one of the two names is enough
        if entry is None:
            raise CheckpointError(f"the weights lack {theirs}, which config.json asks for")
        shape = layout.stored_shape(ours, shapes)
        if entry.shape != shape:
            if ours.startswith("classifier.output.") and entry.shape[1:] == shape[1:]:
                raise CheckpointError(
                    f"{entry.file.name}: {theirs} has {entry.shape[0]} rows, and config.json names {shape[0]} labels; "
                    "name one in id2label for each row"
                )
            raise CheckpointError(
                f"{entry.file.name}: {theirs} has the shape {list(entry.shape)}, config.json asks for {list(shape)}"
            )
        if (entry.dtype == "I8") != (wanted.dtype == torch.int8) or entry.dtype not in {*FLOATS, "I8"}:
            raise CheckpointError(f"{entry.file.name}: {theirs} is {entry.dtype}, which is not what its format asks")
        entries[ours] = layout.part(ours, entry, shapes)
    read = {entry.name for entry in entries.values()}
    check_surplus(
        {name: entry for name, entry in found.items() if entry.name not in read},
        family,
        spec,
        entries["embedding.weight"],
    )
    return entries
