"""What a spec is in the values of a GGUF file: the way out, beside config.py, which is the way in."""

from collections.abc import Iterator

from ..spec import LayerSpec, TransformerSpec
from .architectures import Architecture
from .scaling import scaling_values

Said = tuple[str, bool | int | float | str | bytes | list[bool]]


def spec_values(spec: TransformerSpec, architecture: Architecture) -> Iterator[Said]:
    """(key without the architecture's name, value), of all that llama.cpp asks for.

    What a file cannot say is not here: whoever writes one reads it again and compares.
    """
    layer = spec.layers[0]
    yield ".block_count", len((spec.encoder or spec).layers)
    yield ".context_length", spec.max_context
    yield ".embedding_length", spec.hidden_size
    yield ".vocab_size", spec.vocab_size
    yield from _ffn(layer)
    yield from _attention(layer)
    yield ".attention.layer_norm_rms_epsilon" if spec.norm == "rms" else ".attention.layer_norm_epsilon", spec.norm_eps
    if spec.rope:
        yield ".rope.freq_base", spec.rope.theta
        yield ".rope.dimension_count", spec.rope.rotated or layer.attention.head_size
        yield from scaling_values(spec.rope)
    if spec.local_rope and architecture.name == "gemma3":  # the others turn alike in all layers
        yield ".rope.freq_base_swa", spec.local_rope.theta
    if not spec.causal:
        yield ".attention.causal", False
    if spec.encoder:
        yield ".decoder_block_count", len(spec.layers)
        yield ".attention.relative_buckets_count", spec.relative_buckets
        yield ".scale_decoder_outputs", has_scaled_head(spec)
    if architecture.sliding:
        yield from _windows(spec)
    if spec.logit_soft_cap:
        yield ".final_logit_softcapping", spec.logit_soft_cap
    if architecture.name == "gptneox":
        yield ".use_parallel_residual", layer.parallel


def has_scaled_head(spec: TransformerSpec) -> bool:
    """Whether the head is the embedding, of scaled states: a file has their product beside the embedding."""
    return spec.tied_head and spec.head_scale != 1


def _ffn(layer: LayerSpec) -> Iterator[Said]:
    mixture = layer.ffn.mixture
    yield ".feed_forward_length", layer.ffn.width
    if mixture.num_experts:
        yield ".expert_feed_forward_length", layer.ffn.width
        yield ".expert_count", mixture.num_experts
        yield ".expert_used_count", mixture.active


def _attention(layer: LayerSpec) -> Iterator[Said]:
    attention = layer.attention
    yield ".attention.head_count", attention.num_heads
    yield ".attention.head_count_kv", attention.num_kv_heads
    yield ".attention.key_length", attention.head_size
    yield ".attention.value_length", attention.head_size
    if attention.soft_cap:
        yield ".attn_logit_softcapping", attention.soft_cap


def _windows(spec: TransformerSpec) -> Iterator[Said]:
    """The window, and which layers have it: a flag each, as any pattern can be said so."""
    windows = [layer.attention.window for layer in spec.layers]
    yield ".attention.sliding_window", max(windows)
    yield ".attention.sliding_window_pattern", [bool(each) for each in windows]
