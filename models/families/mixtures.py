"""Families whose FFNs are mixtures of experts: Mixtral (Jiang et al. 2024), OLMoE (Muennighoff et al. 2024), and the
mixtures of Qwen 3 (Yang et al. 2025).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..spec import LayerSpec, MixtureSpec, TransformerSpec
from .config import Config
from .llama import NAMES as LLAMA_NAMES
from .llama import llama_like, with_layers
from .qwen3 import QK_NORM_NAMES
from .windows import window_of

_MOST_EXPERTS = 1 << 12


def _names(block: str, choice: str, linears: Sequence[str]) -> Mapping[str, str]:
    """Our paths -> theirs, of the block that holds choice and experts. linears: gate, up and down."""
    experts = zip(("gate", "up", "down"), linears, strict=True)
    named = {f"layers.{{}}.ffn.experts.{{}}.{ours}": f"{block}.experts.{{}}.{theirs}" for ours, theirs in experts}
    return {**LLAMA_NAMES, "layers.{}.ffn.choice": f"{block}.{choice}", **named}


MIXTRAL_NAMES = _names("model.layers.{}.block_sparse_moe", "gate", ("w1", "w3", "w2"))
QWEN_NAMES = {**_names("model.layers.{}.mlp", "gate", ("gate_proj", "up_proj", "down_proj")), **QK_NORM_NAMES}


def mixtral_spec(config: Config) -> TransformerSpec:
    """The spec of a `MixtralForCausalLM` config."""
    defaults = {"num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5}
    own = ("sliding_window", "num_local_experts", "num_experts_per_tok")
    spec = llama_like(config, "mixtral", defaults, own)
    spec = with_layers(spec, window=[window_of(config, None)] * len(spec.layers))
    mixture = _mixture(config, "num_local_experts", 8, 2, True)
    return _with_mixtures(spec, [mixture] * len(spec.layers))


def olmoe_spec(config: Config) -> TransformerSpec:
    """The spec of an `OlmoeForCausalLM` config."""
    defaults = {"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "num_key_value_heads": 16}
    own = ("num_experts", "num_experts_per_tok", "norm_topk_prob")
    spec = llama_like(config, "olmoe", defaults, own, never=("mlp_bias",))
    spec = with_layers(spec, qk_norm=["whole"] * len(spec.layers))
    mixture = _mixture(config, "num_experts", 64, 8, config.flag("norm_topk_prob", False))
    return _with_mixtures(spec, [mixture] * len(spec.layers))


def qwen3_moe_spec(config: Config) -> TransformerSpec:
    """The spec of a `Qwen3MoeForCausalLM` config; layers of mlp_only_layers and between steps have none."""
    own = (
        "sliding_window", "use_sliding_window", "num_experts", "num_local_experts", "num_experts_per_tok",
        "norm_topk_prob", "moe_intermediate_size", "decoder_sparse_step", "mlp_only_layers",
    )  # fmt: skip
    defaults = {"num_key_value_heads": 4, "max_position_embeddings": 32768}
    spec = llama_like(config, "qwen3_moe", defaults, own, never=("mlp_bias",))
    count, step = len(spec.layers), config.count("decoder_sparse_step", 1)
    window = window_of(config, 4096) if config.flag("use_sliding_window", False) else 0
    spec = with_layers(spec, qk_norm=["heads"] * count, window=[window] * count)
    key = "num_experts" if config.has("num_experts") else "num_local_experts"  # the second is that of newer files
    mixture = _mixture(config, key, 128, 8, config.flag("norm_topk_prob", False))
    dense, width = _layer_numbers(config, count), config.count("moe_intermediate_size", 768)
    sparse = [i not in dense and (i + 1) % step == 0 for i in range(count)]
    return _with_mixtures(spec, [mixture if each else MixtureSpec() for each in sparse], width)


def _mixture(config: Config, key: str, experts: int, active: int, normalised: bool) -> MixtureSpec:
    found = config.count(key, experts, limit=_MOST_EXPERTS), config.count("num_experts_per_tok", active)
    if found[1] > found[0]:
        raise config.wrong("num_experts_per_tok", f"and there are {found[0]} experts, {key}", found[1])
    return MixtureSpec(*found, normalised)


def _with_mixtures(spec: TransformerSpec, mixtures: Sequence[MixtureSpec], width: int | None = None) -> TransformerSpec:
    """The spec with a mixture for each layer, or none; width: of an expert, where it is not that of an FFN."""

    def changed(layer: LayerSpec, mixture: MixtureSpec) -> LayerSpec:
        own = width if width and mixture.num_experts else layer.ffn.width
        return replace(layer, ffn=replace(layer.ffn, mixture=mixture, width=own))

    return replace(spec, layers=tuple(map(changed, spec.layers, mixtures)))


def _layer_numbers(config: Config, num_layers: int) -> list[int]:
    """mlp_only_layers: the numbers of layers without experts."""
    found = config.values.get("mlp_only_layers") or []
    if not isinstance(found, list) or not all(isinstance(each, int) and 0 <= each < num_layers for each in found):
        raise config.wrong("mlp_only_layers", f"it must be a list of numbers of layers, 0 to {num_layers - 1}")
    return found
