"""Tiny GGUF files for tests, written by the library of llama.cpp's makers from weights under Hugging Face's names."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf.quants import quantize

EMBEDDED = Path(__file__).parents[1] / "models" / "embedded" / "stories260k"
SIZES: dict[str, Any] = {
    "vocab_size": 320, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 32, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}  # fmt: skip
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def random_weights(sizes: Mapping[str, Any] = SIZES, tied: bool = True, biases: Sequence[str] = ()) -> dict[str, Any]:
    """fp32 weights of a Llama under Hugging Face's names; `biases` names the modules that have one."""
    hidden, head = sizes["hidden_size"], sizes["head_dim"]
    query, key, ffn = sizes["num_attention_heads"] * head, sizes["num_key_value_heads"] * head, "intermediate_size"
    shapes = {"model.embed_tokens.weight": (sizes["vocab_size"], hidden), "model.norm.weight": (hidden,)}
    if not tied:
        shapes["lm_head.weight"] = (sizes["vocab_size"], hidden)
    layer = {
        "self_attn.q_proj": (query, hidden), "self_attn.k_proj": (key, hidden), "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query), "mlp.gate_proj": (sizes[ffn], hidden), "mlp.up_proj": (sizes[ffn], hidden),
        "mlp.down_proj": (hidden, sizes[ffn]), "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    for i in range(sizes["num_hidden_layers"]):
        for name, shape in layer.items():
            shapes[f"model.layers.{i}.{name}.weight"] = shape
            if name in biases:
                shapes[f"model.layers.{i}.{name}.bias"] = shape[:1]
    random = np.random.default_rng(0)
    return {
        name: (1 if "norm" in name else 0) + 0.1 * random.standard_normal(shape, dtype=np.float32)
        for name, shape in shapes.items()
    }


def byte_level(
    merges: Sequence[str] = ("Ġ t",),
    pre: str = "smollm",
    special: Sequence[str] = ("<|end|>", "<s>", "</s>"),
    **more: Any,
) -> dict[str, Any]:
    """A byte-level vocabulary: special tokens, 256 bytes, what the merges make; of 320 entries, or more."""
    from tokenizers import pre_tokenizers

    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in merges)]
    tokens = list(dict.fromkeys(tokens))
    kinds = [CONTROL] * len(special) + [NORMAL] * (len(tokens) - len(special))
    return {
        "model": "gpt2", "pre": pre, "tokens": tokens, "token_type": kinds, "merges": list(merges), "bos_token_id": 1,
        "eos_token_id": 2, **more,
    }  # fmt: skip


def sentence_piece(**more: Any) -> dict[str, Any]:
    """The vocabulary of stories260k as SentencePiece has it: a score for each piece."""
    vocab = json.loads((EMBEDDED / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.__getitem__)
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * (len(tokens) - 259)]
    scores = [0.0] * 259 + [-float(i) for i in range(len(tokens) - 259)]
    return {
        "model": "llama", "tokens": tokens, "token_type": kinds, "scores": scores, "bos_token_id": 1, "eos_token_id": 2,
        "unknown_token_id": 0, **more,
    }  # fmt: skip


def letter_map(changes: Mapping[str, str]) -> bytes:
    """A map of letters as SentencePiece has it, for letters of one byte: an array of units, then texts.

    The root's children lie in the second block of 256 units, and what says where their texts are in the third.
    """
    units, texts = np.zeros(768, "<u4"), b""
    units[0] = 256 << 10
    for letter, becomes in changes.items():
        units[256 ^ ord(letter)] = ord(letter) | 1 << 8 | (256 ^ 512) << 10
        units[512 ^ ord(letter)] = 1 << 31 | len(texts)
        texts += becomes.encode() + b"\0"
    return units.nbytes.to_bytes(4, "little") + units.tobytes() + texts


PIECES = (
    "▁", "▁the", "▁cat", "▁s", "at", "a", "t", "s", "c", "▁c", "h", "e", ".", "é", "z", "he", "▁t", "x", "<mask>",
)  # fmt: skip


def unigram_tokenizer(special: Sequence[str], unknown: int, ends: str) -> Any:
    """A Unigram as transformers makes those of T5 and XLM-RoBERTa: words, a map that makes Z a z, single spaces.

    ends: what is written around a text, `<s> $A </s>`.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocabulary = [*((name, 0.0) for name in special), *((piece, -1.5 - 0.25 * i) for i, piece in enumerate(PIECES))]
    made = Tokenizer(models.Unigram(vocabulary, unknown, byte_fallback=False))
    made.normalizer = normalizers.Precompiled(letter_map({"\n": " ", "\t": " ", "\r": " ", "Z": "z"}))
    words = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    made.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    made.add_special_tokens([*special, "<mask>"])
    used = [(name, made.token_to_id(name)) for name in ends.split() if name != "$A"]
    made.post_processor = processors.TemplateProcessing(ends, special_tokens=used)
    return made


def write_gguf(
    file: Path, weights: Mapping[str, Any], tokenizer: Mapping[str, Any], kind: str = "F32",
    sizes: Mapping[str, Any] = SIZES, architecture: str = "llama", more: Mapping[str, Any] | None = None,
    raw: Mapping[str, tuple[str, npt.NDArray[np.uint8]]] | None = None,
) -> Path:  # fmt: skip
    """Writes a file with its matrices in `kind`; those of `raw` as these bytes of another. Returns `file`."""
    writer = gguf.GGUFWriter(file, architecture)
    _add_values(writer, sizes, tokenizer, more or {})
    quantized = gguf.GGMLQuantizationType[kind]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, sizes["num_hidden_layers"])
    for name, value in weights.items():
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias")) or name
        if raw and name in raw:
            writer.add_tensor(theirs, raw[name][1], raw_dtype=gguf.GGMLQuantizationType[raw[name][0]])
            continue
        value = _interleaved(name, value, sizes)
        of = quantized if value.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(theirs, quantize(value, of), raw_dtype=of)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return file


def _interleaved(name: str, value: npt.NDArray[np.float32], sizes: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """Query and key as llama.cpp wants them: the two numbers of a rotary pair side by side."""
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}.get(name.split(".")[-2])
    if heads is None:
        return value
    return value.reshape(sizes[heads], 2, -1, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)


def _add_values(writer: Any, sizes: Mapping[str, Any], tokenizer: Mapping[str, Any], more: Mapping[str, Any]) -> None:
    writer.add_block_count(sizes["num_hidden_layers"])
    writer.add_context_length(sizes["max_position_embeddings"])
    writer.add_embedding_length(sizes["hidden_size"])
    writer.add_feed_forward_length(sizes["intermediate_size"])
    writer.add_head_count(sizes["num_attention_heads"])
    writer.add_head_count_kv(sizes["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(sizes["rms_norm_eps"])
    writer.add_rope_freq_base(sizes["rope_theta"])
    writer.add_rope_dimension_count(sizes["head_dim"])
    for key, value in tokenizer.items():
        name = "tokenizer.chat_template" if key == "chat_template" else f"tokenizer.ggml.{key}"
        _add(writer, name, value)
    for key, value in more.items():
        _add(writer, key, value)


def _add(writer: Any, key: str, value: Any) -> None:
    add = {list: writer.add_array, bytes: writer.add_array, str: writer.add_string, bool: writer.add_bool}
    add |= {float: writer.add_float32}
    add.get(type(value), writer.add_uint32)(key, value)
