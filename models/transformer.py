"""The one Transformer: calibrated, distilled, evaluated and served from this file.

Read it top down: norm, attention, FFN, layer, model. Every class is built from the numbers of its own spec; only
`Transformer` knows the whole. Nothing here names a family: what differs between families is in the spec.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .compute import Compute, OperatingPoints, Whole
from .context import CausalContext, Context
from .ffn.dense import FFN
from .ffn.registry import ffn_of
from .linear import EMBEDDINGS, LINEARS, Embedding, Graded, GradedLinear, TensorModule
from .rope import inverse_frequencies, rotate, rotation
from .spec import AttentionSpec, LayerSpec, TransformerSpec


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
        self.counts = [spec.num_heads, spec.num_kv_heads, spec.num_kv_heads]
        self.packed: tuple[TensorModule] | None = None  # query, key and value as one linear; see packing.py

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor] | None, context: Context, compute: Compute | None = None
    ) -> Tensor:
        if self.packed is None:
            query, key, value = self._apart(x, turn, compute)
        else:
            query, key, value = self._together(self.packed[0](x, compute), turn)
        mixed = context.attend(self.index, query, key, value)
        return self.output(mixed.transpose(1, 2).flatten(2), compute)

    def _together(self, x: Tensor, turn: tuple[Tensor, Tensor] | None) -> Sequence[Tensor]:
        """Query, key and value, made side by side; query and key are turned in one go."""
        turned, value = torch.split(self._heads(x), [sum(self.counts[:2]), self.counts[2]], dim=1)
        if turn is not None:
            turned = rotate(turned, *turn)
        return (*torch.split(turned, self.counts[:2], dim=1), value)

    def _apart(self, x: Tensor, turn: tuple[Tensor, Tensor] | None, compute: Compute | None) -> Sequence[Tensor]:
        query, key, value = (self._heads(linear(x, compute)) for linear in (self.query, self.key, self.value))
        return (query, key, value) if turn is None else (rotate(query, *turn), rotate(key, *turn), value)

    def _heads(self, x: Tensor) -> Tensor:
        """[batch, tokens, heads * size] -> [batch, heads, tokens, size]"""
        return x.view(*x.shape[:-1], -1, self.head_size).transpose(1, 2)


class Layer(TensorModule):
    """x + attention(norm(x)), then x + ffn(norm(x))."""

    def __init__(self, index: int, spec: TransformerSpec, layer: LayerSpec) -> None:
        super().__init__()
        self.attention_norm = Norm(spec)
        self.attention = Attention(index, spec.hidden_size, layer.attention)
        self.ffn_norm = Norm(spec)
        self.ffn = ffn_of(spec.hidden_size, layer.ffn, spec.num_tiers)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor] | None, context: Context, compute: Compute | None = None
    ) -> Tensor:
        x = self.attend(x, turn, context, compute)
        return x + self.ffn(self.ffn_norm(x), compute)

    def attend(
        self, x: Tensor, turn: tuple[Tensor, Tensor] | None, context: Context, compute: Compute | None = None
    ) -> Tensor:
        """The first half alone."""
        return x + self.attention(self.attention_norm(x), turn, context, compute)


class Transformer(TensorModule):
    """token_ids [batch, tokens] -> logits [batch, tokens, vocab], built from a `TransformerSpec`.

    Build it under `torch.device("meta")` and give it weights with `load_state_dict(..., assign=True)`.
    """

    frequencies: Tensor
    thresholds: Tensor | None

    def __init__(self, spec: TransformerSpec) -> None:
        super().__init__()
        self.spec = spec
        self.operating_point: float = 0  # on the dial: 0 is the full tier, 1 the next; models/dial.py
        self.whole = Whole(0.0, 0)  # what a token at the full tier costs, once the weights are loaded
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
        graded = any(isinstance(module, Graded) for module in self.modules())
        self.register_buffer("thresholds", torch.empty(spec.num_tiers, dtype=torch.float32) if graded else None)

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor | None = None,
        context: Context | None = None,
        compute: Compute | None = None,
    ) -> Tensor:
        """positions: [batch, tokens], by default 0, 1, 2 ...; without a context the tokens see this call only.

        compute: what each row asks; by default all stand at `operating_point`, that of the model as it was loaded.
        """
        if compute is None and self.operating_point:
            compute = self.compute_of([self.operating_point] * len(token_ids))
        return self.head(self.hidden(token_ids, positions, context, compute), compute)

    def hidden(
        self,
        token_ids: Tensor,
        positions: Tensor | None = None,
        context: Context | None = None,
        compute: Compute | None = None,
    ) -> Tensor:
        """The normalised state after the last layer, [batch, tokens, hidden]: what `head` takes."""
        x, turn = self.embed(token_ids, positions)
        context = context or CausalContext()
        if compute is None and self.operating_point:
            compute = self.compute_of([self.operating_point] * len(token_ids))
        for layer in self.layers:
            x = layer(x, turn, context, compute)
        return self.norm(x)

    def embed(self, token_ids: Tensor, positions: Tensor | None = None) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """What the first layer takes: states [batch, tokens, hidden], and how rotary positions turn them."""
        if positions is None:
            positions = torch.arange(token_ids.shape[1], device=token_ids.device).expand_as(token_ids)
        x = self.embedding(token_ids)
        if self.positions is not None:
            return x + self.positions(positions + self.spec.position_offset), None
        return x, rotation(positions, self.frequencies, x.dtype)

    def compute_of(self, operating_points: Sequence[float], factors: Sequence[float] = ()) -> Compute:
        """An account for rows at these operating points, with nothing spent; with factors they choose together."""
        asked = OperatingPoints(operating_points, self.norm.weight.device, factors)
        return Compute.of(asked, self.whole, self.thresholds)

    def prepare(self) -> None:
        """Makes ready what depends on the weights; call it once they are loaded."""
        for layer in self.layers:
            if isinstance(layer, Layer):
                layer.ffn.prepare()
        self.whole = whole_of(self)

    def head(self, hidden: Tensor, compute: Compute | None = None, rows: Tensor | None = None) -> Tensor:
        """Logits [..., vocab] of normalised states [..., hidden], those of every row of a pass or of `rows` of it.

        Without an account all of the head is read.
        """
        if self.untied_head is None:
            return self.embedding.project(hidden, compute, rows)
        return self.untied_head(hidden, compute, rows)


def whole_of(model: Transformer) -> Whole:
    """What tiers govern: all graded linears where there are some, else the FFNs."""
    layers = [layer for layer in model.layers if isinstance(layer, Layer)]
    ffns, neurons = [layer.ffn for layer in layers], sum(layer.ffn.width for layer in layers)
    if model.thresholds is None:
        dense = [ffn for ffn in ffns if type(ffn) is FFN]
        fixed = (sum(ffn.whole_bytes for ffn in dense), sum(ffn.width for ffn in dense))
        return Whole(sum(ffn.whole_bytes for ffn in ffns), neurons, *fixed)
    graded = [module for module in model.modules() if isinstance(module, Graded)]  # parts of groups, not groups
    computed = sum(ffn.width for ffn in ffns if not isinstance(ffn.down, GradedLinear))
    return Whole(sum(linear.whole_bytes for linear in graded), neurons, 0.0, computed)
