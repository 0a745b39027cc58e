"""The one Transformer: calibrated, distilled, evaluated and served from this file.

Read it top down: norm, attention, FFN, layer, model. Every class is built from the numbers of its own spec; only
`Transformer` knows the whole. Nothing here names a family: what differs between families is in the spec.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from .context import CausalContext, Context
from .linear import EMBEDDINGS, LINEARS, Embedding, TensorModule
from .rope import inverse_frequencies, rotate, rotation
from .spec import AttentionSpec, FFNSpec, LayerSpec, TransformerSpec


def _gelu_tanh(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": _gelu_tanh,
}


class Norm(TensorModule):
    """RMS norm (x / rms(x) * w) or layer norm; statistics in fp32."""

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.kind, self.eps = spec.norm, spec.norm_eps
        self.weight = nn.Parameter(torch.empty(spec.hidden_size))
        self.bias = nn.Parameter(torch.empty(spec.hidden_size)) if spec.norm_bias else None

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "rms":
            wide = x.float()  # written out: a fused op exists on GPUs only
            scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
            return (wide * scale).to(x.dtype) * self.weight
        return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)


class Attention(TensorModule):
    """Causal grouped-query attention: every query head of a group shares one key and value head."""

    def __init__(self, index: int, hidden_size: int, spec: AttentionSpec) -> None:
        super().__init__()
        self.index, self.head_size = index, spec.head_size
        inner, kv_inner = spec.num_heads * spec.head_size, spec.num_kv_heads * spec.head_size
        self.query = LINEARS[spec.query](hidden_size, inner, spec.bias)
        self.key = LINEARS[spec.key](hidden_size, kv_inner, spec.bias)
        self.value = LINEARS[spec.value](hidden_size, kv_inner, spec.bias)
        self.output = LINEARS[spec.output](inner, hidden_size, spec.output_bias)
        self.widths = [inner, kv_inner, kv_inner]
        self.packed: tuple[TensorModule] | None = None  # query, key and value as one linear; see packing.py

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor] | None, context: Context) -> Tensor:
        if self.packed:
            parts = torch.split(self.packed[0](x), self.widths, dim=-1)
        else:
            parts = (self.query(x), self.key(x), self.value(x))
        query, key, value = (self._heads(part) for part in parts)
        if turn is not None:
            query, key = rotate(query, *turn), rotate(key, *turn)
        mixed = context.attend(self.index, query, key, value)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        """[batch, tokens, heads * size] -> [batch, heads, tokens, size]"""
        return x.view(*x.shape[:-1], -1, self.head_size).transpose(1, 2)


class FFN(TensorModule):
    """down(act(up x)), or down(act(gate x) * up x) when gated."""

    def __init__(self, hidden_size: int, spec: FFNSpec) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[spec.activation]
        self.gate = LINEARS[spec.gate](hidden_size, spec.width, spec.bias) if spec.gated else None
        self.up = LINEARS[spec.up](hidden_size, spec.width, spec.bias)
        self.down = LINEARS[spec.down](spec.width, hidden_size, spec.bias)
        self.packed: tuple[TensorModule] | None = None  # gate and up as one linear; see packing.py

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        gate, up = self.packed[0](x).chunk(2, dim=-1) if self.packed else (self.gate(x), self.up(x))
        return self.down(self.activation(gate) * up)


class Layer(TensorModule):
    """x + attention(norm(x)), then x + ffn(norm(x))."""

    def __init__(self, index: int, spec: TransformerSpec, layer: LayerSpec) -> None:
        super().__init__()
        self.attention_norm = Norm(spec)
        self.attention = Attention(index, spec.hidden_size, layer.attention)
        self.ffn_norm = Norm(spec)
        self.ffn = FFN(spec.hidden_size, layer.ffn)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor] | None, context: Context) -> Tensor:
        x = x + self.attention(self.attention_norm(x), turn, context)
        return x + self.ffn(self.ffn_norm(x))


class Transformer(TensorModule):
    """token_ids [batch, tokens] -> logits [batch, tokens, vocab], built from a `TransformerSpec`.

    Build it under `torch.device("meta")` and give it weights with `load_state_dict(..., assign=True)`.
    """

    frequencies: Tensor

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = EMBEDDINGS[spec.embedding](spec.vocab_size, spec.hidden_size)
        rows = spec.max_context + spec.position_offset
        self.positions = None if spec.rope else Embedding(rows, spec.hidden_size)
        self.layers = nn.ModuleList(Layer(i, spec, layer) for i, layer in enumerate(spec.layers))
        self.norm = Norm(spec)
        head = None if spec.tied_head else LINEARS[spec.head](spec.hidden_size, spec.vocab_size, False)
        self.untied_head = head
        if spec.rope:
            with torch.device("cpu"):
                table = inverse_frequencies(spec.rope, spec.layers[0].attention.head_size)
            self.register_buffer("frequencies", table, persistent=False)

    def forward(self, token_ids: Tensor, positions: Tensor | None = None, context: Context | None = None) -> Tensor:
        """positions: [batch, tokens], by default 0, 1, 2 ...; without a context the tokens see this call only."""
        return self.head(self.hidden(token_ids, positions, context))

    def hidden(self, token_ids: Tensor, positions: Tensor | None = None, context: Context | None = None) -> Tensor:
        """The normalised state after the last layer, [batch, tokens, hidden]: what `head` takes."""
        if positions is None:
            positions = torch.arange(token_ids.shape[1], device=token_ids.device).expand_as(token_ids)
        context = context or CausalContext()
        x = self.embedding(token_ids)
        turn = None
        if self.positions is not None:
            x = x + self.positions(positions + self.spec.position_offset)
        else:
            turn = rotation(positions, self.frequencies, x.dtype)
        for layer in self.layers:
            x = layer(x, turn, context)
        return self.norm(x)

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocab] of normalised states [..., hidden]."""
        return self.embedding.project(hidden) if self.untied_head is None else self.untied_head(hidden)
