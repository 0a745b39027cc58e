"""Whole models with random weights, made on the device: for speed alone. Nothing is read from a disk."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...compress.moefy.centres import centred_paths, leans
from ...compress.moefy.input_tiers import grade_linears_
from ...models.families.config import Config
from ...models.families.registry import family_of
from ...models.ffn.dense import FFN
from ...models.ffn.planes import PlaneFFN
from ...models.ffn.registry import SPARSE_FFNS
from ...models.ffn.routed import RoutedFFN
from ...models.ffn.sparse import SparseFFN
from ...models.linear import Embedding, Int8Embedding
from ...models.packing import pack_
from ...models.spec import (
    BIT_PLANES,
    CENTRED,
    GRADED,
    INT8,
    NORM_REGRESSION,
    ExpertSpec,
    FFNSpec,
    TransformerSpec,
    with_overrides,
)
from ...models.transformer import Layer, Transformer

LOW = 1  # the tier that computes SHARE of the neurons
SHARE = 0.25
EXPERT, ROUTER_WIDTH = 64, 64
PLANE_BITS, REFINED_BITS = 4, 6
CALIBRATED_TOKENS = 64
SMALL = 1 << 20  # weights
GRADED_THRESHOLD, LEAST_GELU = 0.5, -0.17
SMOLLM2 = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 2048,
    "rope_theta": 100000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
}  # fmt: skip
EIGHT_LAYERS = SMOLLM2 | {"num_hidden_layers": 8}  # with the head more than a last cache holds
LLAMA_8B = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 2048,
    "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip
TOY = SMOLLM2 | {
    "vocab_size": 256, "hidden_size": 48, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
TOY_LINES = TOY | {"hidden_size": 64, "num_attention_heads": 4}  # rows of int8 weights in whole lines
TOY_OPT = {
    "model_type": "opt", "vocab_size": 256, "hidden_size": 64, "word_embed_proj_dim": 64, "ffn_dim": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256, "activation_function": "relu",
    "do_layer_norm_before": True, "tie_word_embeddings": True,
}  # fmt: skip
TOY_GELU = TOY_OPT | {"activation_function": "gelu"}  # whose down is graded about a centre
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "smollm2-135m": SMOLLM2, "smollm2-8-layers": EIGHT_LAYERS, "llama-3-8b": LLAMA_8B,
    "toy": TOY, "toy-lines": TOY_LINES, "toy-opt": TOY_OPT, "toy-gelu": TOY_GELU,
}  # fmt: skip
KINDS = ("dense", "int8", "graded", "tiles", "planes")
_LINEARS = ("attention.query", "attention.key", "attention.value", "attention.output", "ffn.up", "ffn.gate", "ffn.down")


def random_model(shape: str, kind: str, device: str, dtype: torch.dtype) -> Transformer:
    """kind: dense; int8, the head too; tiles and planes: int8 in experts, whose tier LOW computes SHARE of them;
    graded: int8 linears, whose tier LOW reads some bits of most inputs.
    """
    spec = as_kind(spec_of(shape), "dense" if kind == "dense" else "int8")
    with torch.device("meta"):
        model = Transformer(spec)
    model.load_state_dict(random_weights(model, device, dtype), strict=True, assign=True)
    if spec.rope:
        model.frequencies = model.frequencies.to(device)
    for module in model.modules():
        if isinstance(module, Embedding | Int8Embedding):
            module.dtype = dtype
    pack_(model)
    model.requires_grad_(False).eval()
    if kind == "graded":
        return with_grades(model, device)
    return model if kind in ("dense", "int8") else in_experts(model, kind, device)


def spec_of(shape: str) -> TransformerSpec:
    """In floating point."""
    values = SHAPES[shape]
    return family_of(values).spec(Config({**values, "architectures": [family_of(values).architecture]}))


def int8_bytes(shape: str) -> int:
    """What a step reads of such a model in int8, of which none is made."""
    with torch.device("meta"):
        return weight_bytes(Transformer(as_kind(spec_of(shape), "int8")))


def as_kind(spec: TransformerSpec, kind: str) -> TransformerSpec:
    """With every linear, the head too, dense, in int8, or graded; or in int8 with FFNs in experts."""
    if kind == "dense":
        return spec
    if kind in ("tiles", "planes"):
        return spec_in_experts(as_kind(spec, "int8"), experts_of(spec, kind))
    form, head = GRADED if kind == "graded" else INT8, "embedding" if spec.tied_head else "head"
    down = {"layers.*.ffn.down": CENTRED} if kind == "graded" and leans(spec.layers[0].ffn) else {}
    made = with_overrides(spec, {f"layers.*.{name}": form for name in _linears(spec)} | {head: form} | down)
    return replace(made, num_tiers=LOW + 1) if kind == "graded" else made


def random_weights(model: Transformer, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Draws weights that make a layer's output about as large as its input.

    Those of a small model are drawn on the CPU, so that they are the same on every device.
    """
    state = model.state_dict()
    if device != "cpu" and sum(value.numel() for value in state.values()) <= SMALL:
        return {name: value.to(device) for name, value in random_weights(model, "cpu", dtype).items()}
    found = {}
    for name, value in state.items():
        inputs = value.shape[-1]
        if "norm" in name:
            found[name] = torch.full(value.shape, float(name.endswith("weight")), dtype=dtype, device=device)
        elif value.dtype == torch.int8:
            found[name] = torch.randint(-127, 128, value.shape, dtype=torch.int8, device=device)
        elif name.endswith("weight_scale"):
            rows = model.get_submodule(name.rpartition(".")[0]).weight
            width = rows.shape[1] if isinstance(rows, Tensor) else 1
            found[name] = torch.full(value.shape, 1 / (73 * width**0.5), dtype=torch.float32, device=device)
        else:
            found[name] = torch.randn(value.shape, dtype=dtype, device=device) * inputs**-0.5
    return found


def in_experts(model: Transformer, kind: str, device: str) -> Transformer:
    """The same with every FFN in experts, of 64 neurons by a router, or of one by bit planes."""
    model.spec = spec_in_experts(model.spec, experts_of(model.spec, kind))
    for layer, spec in zip(model.layers, model.spec.layers, strict=True):
        if isinstance(layer, Layer):
            layer.ffn = _twin(layer.ffn, model.spec, spec.ffn, device, model.norm.weight.dtype)
    model.prepare()
    return model


def experts_of(spec: TransformerSpec, kind: str) -> ExpertSpec:
    if kind == "planes":
        return ExpertSpec(1, BIT_PLANES, router_bits=PLANE_BITS, refined_bits=REFINED_BITS)
    return ExpertSpec(EXPERT if spec.hidden_size > EXPERT else 16, NORM_REGRESSION, router_width=ROUTER_WIDTH)


def with_grades(model: Transformer, device: str) -> Transformer:
    """The same with every linear graded, each output felt alike."""
    parts = {name: getattr(each, "weight_scale", None) for name, each in model.named_modules()}
    rows = {name: scale for name, scale in parts.items() if isinstance(scale, Tensor)}
    felt = {name: torch.ones_like(scale) for name, scale in rows.items()}
    wanted = as_kind(model.spec, "graded")
    centre = torch.linspace(LEAST_GELU, 0.0, wanted.layers[0].ffn.width, device=device)
    grade_linears_(model, wanted, felt, dict.fromkeys(centred_paths(wanted), centre))
    model.thresholds = torch.tensor([0.0, GRADED_THRESHOLD], device=device)
    return model


def _linears(spec: TransformerSpec) -> Sequence[str]:
    return [name for name in _LINEARS if name != "ffn.gate" or spec.layers[0].ffn.gated]


def _twin(ffn: FFN, spec: TransformerSpec, wanted: FFNSpec, device: str, dtype: torch.dtype) -> SparseFFN:
    twin = SPARSE_FFNS[wanted.experts.router].of(ffn, spec.hidden_size, wanted, spec.num_tiers)
    if isinstance(twin, RoutedFFN):
        twin.router.load_state_dict(_router(twin, device), assign=True)
    _set_thresholds(twin, device, dtype)
    return twin.requires_grad_(False).eval()


def spec_in_experts(spec: TransformerSpec, experts: ExpertSpec) -> TransformerSpec:
    layers = tuple(replace(layer, ffn=replace(layer.ffn, experts=experts)) for layer in spec.layers)
    return replace(spec, layers=layers, num_tiers=LOW + 1)


def _router(ffn: RoutedFFN, device: str) -> dict[str, Tensor]:
    shapes: Sequence[tuple[str, int, int]] = (
        ("first.weight", ROUTER_WIDTH, ffn.hidden_size), ("second.weight", ffn.num_tiles, ROUTER_WIDTH),
    )  # fmt: skip
    return {
        name: torch.randn(outputs, inputs, dtype=torch.bfloat16, device=device) * inputs**-0.5
        for name, outputs, inputs in shapes
    }


def _set_thresholds(ffn: SparseFFN, device: str, dtype: torch.dtype) -> None:
    """Thresholds that SHARE of the experts pass, on states as a norm leaves them."""
    with torch.no_grad():
        scores = ffn.scores(torch.randn(CALIBRATED_TOKENS, ffn.hidden_size, device=device).to(dtype)).float().flatten()
        least = scores.kthvalue(max(1, round((1 - SHARE) * len(scores)))).values
    ffn.thresholds[LOW, 0] = least
    ffn.thresholds[LOW, 1] = least * (ffn.ratio if isinstance(ffn, PlaneFFN) else 1.0)


def weight_bytes(model: Transformer) -> int:
    """The bytes of all that a decode step may read; an embedding that is no head is left out."""
    kept = model.state_dict()
    skipped = () if model.spec.tied_head else ("embedding.",)
    return sum(value.nbytes for name, value in kept.items() if not name.startswith(skipped or ("\0",)))
