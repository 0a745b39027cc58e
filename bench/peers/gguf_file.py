"""A dense Llama directory as a GGUF file, for llama.cpp; written by the library of its makers, without a vocabulary."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...models.checkpoint import Checkpoint, open_checkpoint, read_tensors
from ...models.errors import SetupError
from ...models.spec import TransformerSpec
from .kept import made_once

_FILE = "model.gguf"


def gguf_of(dense: Path) -> Path:
    """The file of a directory's weights, made once. Raises SetupError as `write_gguf` does."""
    checkpoint = open_checkpoint(dense)
    return made_once(checkpoint.files[0], "GGUF", lambda folder: write_gguf(checkpoint, folder / _FILE)) / _FILE


def write_gguf(checkpoint: Checkpoint, file: Path) -> None:
    """The same numbers: matrices in bf16, vectors in fp32. Raises SetupError for what is no plain Llama."""
    if not _is_plain(checkpoint.spec):
        raise SetupError(f"{checkpoint.path.name} is no plain Llama, and no other is written as GGUF; give --gguf FILE")
    gguf: Any = import_module("gguf")
    writer = gguf.GGUFWriter(file, "llama")
    _add_sizes(writer, checkpoint.spec)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, len(checkpoint.spec.layers))
    for name, tensor in read_tensors(checkpoint):
        theirs = names.get_name(checkpoint.entries[name].name, try_suffixes=(".weight",))
        _add_tensor(writer, theirs, _interleaved(name, tensor, checkpoint), gguf.GGMLQuantizationType)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()


def _is_plain(spec: TransformerSpec) -> bool:
    biased = any(layer.attention.bias or layer.attention.output_bias or layer.ffn.bias for layer in spec.layers)
    return spec.family == "llama" and not biased and spec.rope is not None and spec.rope.scaling == "default"


def _add_sizes(writer: Any, spec: TransformerSpec) -> None:
    first = spec.layers[0]
    writer.add_block_count(len(spec.layers))
    writer.add_context_length(spec.max_context)
    writer.add_embedding_length(spec.hidden_size)
    writer.add_feed_forward_length(first.ffn.width)
    writer.add_head_count(first.attention.num_heads)
    writer.add_head_count_kv(first.attention.num_kv_heads)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_rope_freq_base(spec.rope.theta if spec.rope else 0.0)
    writer.add_rope_dimension_count(first.attention.head_size)
    writer.add_vocab_size(spec.vocab_size)
    writer.add_tokenizer_model("no_vocab")


def _interleaved(name: str, tensor: Tensor, checkpoint: Checkpoint) -> Tensor:
    """Query and key as llama.cpp wants them: the two numbers of a rotary pair side by side."""
    attention = checkpoint.spec.layers[0].attention
    heads = {"query": attention.num_heads, "key": attention.num_kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    return tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)


def _add_tensor(writer: Any, name: str, tensor: Tensor, kinds: Any) -> None:
    if tensor.dim() == 1:
        writer.add_tensor(name, tensor.float().numpy(), raw_dtype=kinds.F32)
    else:
        bits = tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
        writer.add_tensor(name, bits, raw_dtype=kinds.BF16)
