"""Models with random weights in well-known shapes: for the speed of shapes, never for quality.

They are made on the spot, seeded, in bf16, and their config says `"moesaic_shape": true`, so that no report scores
them.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.errors import SetupError
from ..models.families.config import Config
from ..models.families.registry import family_of
from ..models.files import new_directory
from ..models.layout import Layout
from ..models.suggestion import suggestion
from ..models.transformer import Transformer
from ..models.writer import write_weights

SHAPES: Mapping[str, Mapping[str, Any]] = {
    # the sizes of GPT-2 small in the architecture of OPT, which has the same matrices
    "gpt2-small": {
        "model_type": "opt", "vocab_size": 50257, "hidden_size": 768, "word_embed_proj_dim": 768, "ffn_dim": 3072,
        "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 1024,
        "activation_function": "gelu",
    },
    "opt-1.3b": {
        "model_type": "opt", "vocab_size": 50272, "hidden_size": 2048, "word_embed_proj_dim": 2048, "ffn_dim": 8192,
        "num_hidden_layers": 24, "num_attention_heads": 32, "max_position_embeddings": 2048,
        "activation_function": "relu",
    },
    "llama-3.2-1b": {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 8192, "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
    },
    "llama-3-8b": {
        "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 8192, "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    },
}  # fmt: skip
_SCALE = 0.02


def write_shape(name: str, out: Path, seed: int = 0) -> Path:
    """A directory in the shape `name`, made unless it is there. Raises SetupError for an unknown name."""
    if name not in SHAPES:
        raise SetupError(f"there is no shape {name!r}; {suggestion(name, list(SHAPES))}")
    if not out.exists():
        write_random_model(SHAPES[name], out, seed)
    return out


def write_random_model(values: Mapping[str, Any], out: Path, seed: int = 0) -> None:
    """Random bf16 weights for a config.json, one tensor in memory at a time, and a tokenizer of bytes."""
    family = family_of(values)
    config = {**values, "architectures": [family.architecture], "dtype": "bfloat16", "moesaic_shape": True}
    spec = family.spec(Config(config))
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in Transformer(spec).state_dict().items()}
    with new_directory(out, sum(2 * shape.numel() for shape in shapes.values())) as folder:
        write_weights(folder, Layout(family, spec).stored(_random(shapes, seed)), family.their_name)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        _byte_tokenizer(folder / "tokenizer.json")


def is_shape(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of random weights."""
    return config.get("moesaic_shape") is True


def _random(shapes: Mapping[str, torch.Size], seed: int) -> Iterator[tuple[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for name, shape in shapes.items():
        if "norm" in name:
            yield name, torch.full(shape, float(name.endswith("weight")), dtype=torch.bfloat16)
        else:
            yield name, torch.empty(shape, dtype=torch.bfloat16).normal_(0.0, _SCALE, generator=generator)


def _byte_tokenizer(file: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(file))
