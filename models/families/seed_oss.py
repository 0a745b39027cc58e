"""Seed-OSS (ByteDance Seed 2025): Llama with a flag of its own for the bias of attention's output."""

from ..spec import TransformerSpec
from .config import Config
from .llama import llama_like, with_layers

_DEFAULTS = {"num_key_value_heads": 8, "head_dim": 128, "attention_bias": True, "max_position_embeddings": 524288}


def seed_oss_spec(config: Config) -> TransformerSpec:
    """The spec of a `SeedOssForCausalLM` config."""
    spec = llama_like(config, "seed_oss", _DEFAULTS, ("attention_out_bias",), never=())
    return with_layers(spec, output_bias=[config.flag("attention_out_bias", False)] * len(spec.layers))
