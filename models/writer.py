"""What a model directory holds: weights in shards, config.json, and what lies beside them."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .checkpoint import EXPERTS_NAME, INDEX_NAME, MADE_BY, WEIGHTS_NAME, Checkpoint
from .errors import CheckpointError
from .families.config import Config
from .families.registry import is_sparse_tensor
from .optional_json import BPE_FILES, OLDER_FILES, TOKENIZER_FILE
from .sentences import pooling_files
from .spec import INT8_FORMATS, TransformerSpec, spec_overrides

MAX_SHARD_BYTES = 5 << 30
SIDE_FILES = (
    TOKENIZER_FILE, "tokenizer_config.json", "special_tokens_map.json", "generation_config.json",
    "chat_template.jinja", *BPE_FILES,
)  # fmt: skip


def write_weights(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    their_name: Callable[[str], str],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[str]:
    """Writes (our name, tensor) pairs as safetensors under the family's names; returns the file names.

    One shard is in memory at a time. More than one get an index, as Hugging Face readers expect. Tensors of experts go
    to a file of their own. Raises CheckpointError for NaN and infinity, which no reader takes.
    """
    shards: list[list[str]] = []
    batch: dict[str, Tensor] = {}
    experts: dict[str, Tensor] = {}
    total = held = 0

    def flush() -> None:
        nonlocal held
        _save(batch, folder / f"shard-{len(shards)}")
        shards.append(list(batch))
        batch.clear()
        held = 0

    for ours, tensor in tensors:
        _check_finite(their_name(ours), tensor)
        if is_sparse_tensor(ours):
            experts[ours] = tensor.contiguous()
            continue
        if batch and held + tensor.nbytes > max_shard_bytes:
            flush()
        batch[their_name(ours)] = tensor.contiguous()
        held += tensor.nbytes
        total += tensor.nbytes
    flush()
    names = _named_shards(folder, shards, total)
    if experts:
        (folder / EXPERTS_NAME).parent.mkdir()
        _save(experts, folder / EXPERTS_NAME)
    return [*names, EXPERTS_NAME] if experts else names


def _check_finite(name: str, tensor: Tensor) -> None:
    if tensor.is_floating_point() and not tensor.isfinite().all():
        dtype, end = str(tensor.dtype)[6:], torch.finfo(tensor.dtype).max
        way_out = (
            "bfloat16 and float32 go further" if tensor.dtype == torch.float16 else "copy the model's weights again"
        )
        raise CheckpointError(f"{name} would hold NaN or infinity in {dtype}, which ends at {end:.3g}; {way_out}")


def _save(tensors: dict[str, Tensor], file: Path) -> None:
    file.touch()
    mode = file.stat().st_mode  # save_file makes a file of its own that only the owner may read
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(mode)


def write_config(folder: Path, source: Checkpoint, spec: TransformerSpec) -> None:
    """config.json and what else a reader needs beside the weights. FFNs that became ReLU are said in it.

    An int8 checkpoint says so in `quantization_config`. transformers only warns of a quant_method that it does not
    know, and computes with the int8 numbers; without a quant_method it refuses.
    """
    config = dict(source.config)
    config.pop("quantization_config", None)
    default = source.family.spec(Config(source.config))
    if _is_relu(spec) and not _is_relu(default):  # no stage makes one of two sides
        config[source.family.activation_key] = "relu"
    if set(INT8_FORMATS) & set(spec_overrides(spec, default).values()):
        config["quantization_config"] = {"made_by": MADE_BY, "format": "int8 weights, one scale a row"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    copy_beside(source.path, folder)


def copy_beside(source: Path, folder: Path) -> None:
    """Copies what a reader needs beside weights and config, as far as it is there."""
    older = () if (source / TOKENIZER_FILE).is_file() else OLDER_FILES
    there = [name for name in (*SIDE_FILES, *older) if (source / name).is_file()]
    for name in (*there, *pooling_files(source)):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, folder / name)


def _is_relu(spec: TransformerSpec) -> bool:
    return all(layer.ffn.activation == "relu" for layer in spec.layers)


def _named_shards(folder: Path, shards: list[list[str]], total: int) -> list[str]:
    """model.safetensors, or model-00001-of-00003.safetensors ... with model.safetensors.index.json."""
    if len(shards) == 1:
        (folder / "shard-0").rename(folder / WEIGHTS_NAME)
        return [WEIGHTS_NAME]
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for i, name in enumerate(names):
        (folder / f"shard-{i}").rename(folder / name)
    weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")
    return names
