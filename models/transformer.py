"""The one Transformer: calibrated, distilled, evaluated and served from this file.

Read it top down: norm, attention, FFN, layer, model. Every class is built from the numbers of its own spec; only
`Transformer` knows the whole. Nothing here names a family: what differs between families is in the spec.
"""

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..kernels.weighing import Weighing, soft_capped
from .classifier import Classifier
from .compute import Compute, OperatingPoints, Whole
from .context import CausalContext, Context, Source, SourceContext, SourcedContext, WholeContext
from .ffn.dense import FFN
from .ffn.registry import ffn_of
from .linear import EMBEDDINGS, LINEARS, Embedding, Graded, GradedLinear, TensorModule
from .relative import distance_buckets, past_buckets
from .rope import inverse_frequencies, rotate, rotation
from .sinusoids import Sinusoids
from .spec import AttentionSpec, LayerSpec, RopeSpec, TransformerSpec

Turns = Mapping[str, tuple[Tensor, Tensor]]  # cosines and sines by `AttentionSpec.rotary`; empty without rotary ones


class Norm(TensorModule):
    """RMS norm (x / rms(x) * gain) or layer norm of the last dimension; statistics in fp32."""

    def __init__(self, spec: TransformerSpec, size: int | None = None) -> None:
        super().__init__()
        self.kind, self.eps, self.offset = spec.norm, spec.norm_eps, spec.norm_offset
        size = spec.hidden_size if size is None else size
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size)) if spec.norm_bias else None

    @property
    def gain(self) -> Tensor:
        """What a normalised vector is multiplied by."""
        return self.weight.float() + self.offset if self.offset else self.weight

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "layer":
            return functional.layer_norm(x, x.shape[-1:], self.gain, self.bias, self.eps)
        wide = x.float()  # written out: a fused op exists on GPUs only
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (scaled * self.gain).to(x.dtype) if self.offset else scaled.to(x.dtype) * self.weight


class NoNorm(Norm):
    """What stands for a norm where there is none: x as it is."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, x: Tensor) -> Tensor:
        return x


class Attention(TensorModule):
    """Grouped-query attention: every query head of a group shares one key and value head."""

    def __init__(self, index: int, whole: TransformerSpec, spec: AttentionSpec) -> None:
        super().__init__()
        self.index, self.head_size, self.rotary = index, spec.head_size, spec.rotary
        self.weighing = Weighing(spec.scale, spec.window, spec.soft_cap)
        hidden_size = whole.hidden_size
        inner, kv_inner = spec.num_heads * spec.head_size, spec.num_kv_heads * spec.head_size
        self.query = LINEARS[spec.query](hidden_size, inner, spec.bias)
        self.key = LINEARS[spec.key](hidden_size, kv_inner, spec.bias)
        self.value = LINEARS[spec.value](hidden_size, kv_inner, spec.bias)
        self.output = LINEARS[spec.output](inner, hidden_size, spec.output_bias)
        self.norms_heads, normed = spec.qk_norm == "heads", spec.qk_norm != "none"
        self.query_norm = Norm(whole, spec.head_size if self.norms_heads else inner) if normed else None
        self.key_norm = Norm(whole, spec.head_size if self.norms_heads else kv_inner) if normed else None
        self.counts = [spec.num_heads, spec.num_kv_heads, spec.num_kv_heads]
        self.packed: tuple[TensorModule] | None = None  # query, key and value as one linear; see packing.py

    def forward(self, x: Tensor, turns: Turns, context: Context, compute: Compute | None = None) -> Tensor:
        query, key, value = self._turned(*self._projected(x, compute), turns.get(self.rotary))
        mixed = context.attend(self.index, query, key, value, self.weighing)
        return self.output(mixed.transpose(1, 2).flatten(2), compute)

    def _projected(self, x: Tensor, compute: Compute | None) -> tuple[Tensor, Tensor]:
        """Query and key side by side, and value: [batch, tokens, heads * size] each."""
        if self.packed is None:
            query, key, value = (linear(x, compute) for linear in (self.query, self.key, self.value))
            return torch.cat((query, key), dim=-1), value
        first, last = sum(self.counts[:2]) * self.head_size, self.counts[2] * self.head_size
        both, value = torch.split(self.packed[0](x, compute), [first, last], dim=-1)
        return both, value

    def _turned(self, both: Tensor, value: Tensor, turn: tuple[Tensor, Tensor] | None) -> Sequence[Tensor]:
        """Query and key, normed and turned in one go, and value: [batch, heads, tokens, size] each."""
        if self.query_norm is not None and self.key_norm is not None:
            both = self._normed(both, self.query_norm, self.key_norm)
        heads = self._heads(both) if turn is None else rotate(self._heads(both), *turn)
        return (*torch.split(heads, self.counts[:2], dim=1), self._heads(value))

    def _normed(self, both: Tensor, query_norm: Norm, key_norm: Norm) -> Tensor:
        parts = torch.split(both, [count * self.head_size for count in self.counts[:2]], dim=-1)
        pairs = zip((query_norm, key_norm), parts, strict=True)
        last = (-1, self.head_size) if self.norms_heads else (1, -1)
        return torch.cat([norm(part.view(*part.shape[:2], *last)).flatten(2) for norm, part in pairs], dim=-1)

    def _heads(self, x: Tensor) -> Tensor:
        """[batch, tokens, heads * size] -> [batch, heads, tokens, size]"""
        return x.view(*x.shape[:-1], -1, self.head_size).transpose(1, 2)


class CrossAttention(Attention):
    """Queries of a decoder's tokens, keys and values of a source's states: those are made once, by `remembered`."""

    def forward(self, x: Tensor, turns: Turns, context: Context, compute: Compute | None = None) -> Tensor:
        sourced = cast(SourceContext, context)
        mixed = sourced.attend_source(self.index, self._heads(self.query(x, compute)), self.weighing)
        return self.output(mixed.transpose(1, 2).flatten(2), compute)

    def remembered(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [batch, kv_heads, tokens, size] of an encoder's states [batch, tokens, hidden]."""
        return self._heads(self.key(states)), self._heads(self.value(states))


class Layer(TensorModule):
    """x + attention(norm(x)), then x + ffn(norm(x)); in parallel, both of the same x. Norms before and after each of
    them are there or not, or stand around the sums: norm(x + attention(x)), then norm(x + ffn(x)). Between the two
    stands attention to a source, like the first, where there is one.
    """

    def __init__(self, index: int, spec: TransformerSpec, layer: LayerSpec) -> None:
        super().__init__()
        before, after = layer.norms in ("before", "both"), layer.norms != "before"
        self.parallel, self.norms_sums = layer.parallel, layer.norms == "of sums"
        self.attention_norm = Norm(spec) if before else None
        self.attention = Attention(index, spec, layer.attention)
        self.attention_post_norm = Norm(spec) if after else None
        cross = layer.cross is not None
        self.cross_norm = Norm(spec) if cross and before else None
        self.cross = None if layer.cross is None else CrossAttention(index, spec, layer.cross)
        self.cross_post_norm = Norm(spec) if cross and after else None
        self.ffn_norm = Norm(spec) if before else None
        self.ffn = ffn_of(spec.hidden_size, layer.ffn, spec.num_tiers)
        self.ffn_post_norm = Norm(spec) if after else None

    def forward(self, x: Tensor, turns: Turns, context: Context, compute: Compute | None = None) -> Tensor:
        given, state = self.attend(x, turns, context, compute)
        return self.joined(state, self.ffn(given, compute))

    def attend(
        self, x: Tensor, turns: Turns, context: Context, compute: Compute | None = None
    ) -> tuple[Tensor, Tensor]:
        """All but the FFN: what that is given, and the state that what it makes is to join."""
        normed = x if self.attention_norm is None else self.attention_norm(x)
        added = self.attention(normed, turns, context, compute)
        state = self._joined(x, added, self.attention_post_norm)
        if self.cross is not None:
            normed = state if self.cross_norm is None else self.cross_norm(state)
            state = self._joined(state, self.cross(normed, turns, context, compute), self.cross_post_norm)
        given = x if self.parallel else state
        return given if self.ffn_norm is None else self.ffn_norm(given), state

    def joined(self, state: Tensor, made: Tensor) -> Tensor:
        """The state after the layer, from that before the FFN and what the FFN made."""
        return self._joined(state, made, self.ffn_post_norm)

    def _joined(self, state: Tensor, added: Tensor, norm: Norm | None) -> Tensor:
        if norm is None:
            return state + added
        return norm(state + added) if self.norms_sums else state + norm(added)


class Transformer(TensorModule):
    """token_ids [batch, tokens] -> logits [batch, tokens, vocab], or the states of an encoder or of what
    a classifier reads; built from a `TransformerSpec`. A decoder with an encoder of its own goes on from what that has
    read: `read`, `context_of`.

    Build it under `torch.device("meta")` and give it weights with `load_state_dict(..., assign=True)`.
    """

    frequencies: Tensor
    thresholds: Tensor | None

    def __init__(self, spec: TransformerSpec, shared: TensorModule | None = None) -> None:
        """shared: the embedding of another model, for an encoder that has none of its own."""
        super().__init__()
        self.spec = spec
        self.operating_point: float = 0  # on the dial: 0 is the full tier, 1 the next; models/dial.py
        self.whole = Whole(0.0, 0)  # what a token at the full tier costs, once the weights are loaded
        if shared is None:
            self.embedding = EMBEDDINGS[spec.embedding](spec.vocab_size, spec.hidden_size)
        else:
            vars(self)["embedding"] = shared  # and no child, so that its weight has one name
        self.encoder = None if spec.encoder is None else Transformer(spec.encoder, self.embedding)
        self.positions = None if spec.rope else _positions(spec)
        self.token_types = Embedding(spec.token_types, spec.hidden_size) if spec.token_types else None
        self.embedding_norm = Norm(spec) if spec.embedding_norm else None
        heads = spec.layers[0].attention.num_heads if spec.layers else 0
        self.distances = Embedding(spec.relative_buckets, heads) if spec.relative_buckets else None
        self.layers = nn.ModuleList(Layer(i, spec, layer) for i, layer in enumerate(spec.layers))
        self.norm = Norm(spec) if spec.last_norm else NoNorm()
        head = None if spec.tied_head else LINEARS[spec.head](spec.hidden_size, spec.vocab_size, False)
        self.untied_head = head
        self.logit_bias = nn.Parameter(torch.empty(1, spec.vocab_size)) if spec.head_bias else None
        self.classifier = Classifier(spec.hidden_size, spec.classifier) if spec.classifies else None
        if spec.rope:
            with torch.device("cpu"):
                tables = [inverse_frequencies(rope, spec.layers[0].attention.head_size) for rope in self.ropes.values()]
            self.register_buffer("frequencies", torch.stack(tables), persistent=False)  # fp32 [ropes, size/2]
        graded = any(isinstance(module, Graded) for module in self.modules())
        self.register_buffer("thresholds", torch.empty(spec.num_tiers, dtype=torch.float32) if graded else None)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        weight: Tensor = self.embedding.weight
        return weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return next(module for module in self.modules() if type(module) is Norm).weight.dtype

    @property
    def ropes(self) -> dict[str, RopeSpec]:
        """The rotary positions, as layers name them."""
        named = {"main": self.spec.rope, "local": self.spec.local_rope}
        return {name: rope for name, rope in named.items() if rope is not None}

    def forward(
        self,
        token_ids: Tensor,
        positions: Tensor | None = None,
        context: Context | None = None,
        compute: Compute | None = None,
    ) -> Tensor:
        """positions: [batch, tokens], by default 0, 1, 2 ...; without a context the tokens see this call only, which
        a decoder with an encoder cannot do: its context is one with a source.

        compute: what each row asks; by default all stand at `operating_point`, that of the model as it was loaded.
        """
        if compute is None and self.operating_point:
            compute = self.compute_of([self.operating_point] * len(token_ids))
        states = self.hidden(token_ids, positions, context, compute)
        return self.head(states, compute) if self.spec.continues_text else states

    def hidden(
        self,
        token_ids: Tensor,
        positions: Tensor | None = None,
        context: Context | None = None,
        compute: Compute | None = None,
    ) -> Tensor:
        """The normalised state after the last layer, [batch, tokens, hidden]: what `head` takes."""
        x, turns = self.embed(token_ids, positions)
        context = context or self.context_of(token_ids)
        if compute is None and self.operating_point:
            compute = self.compute_of([self.operating_point] * len(token_ids))
        for layer in self.layers:
            x = layer(x, turns, context, compute)
        return self.norm(x)

    def read(self, source_ids: Tensor, lengths: Tensor | None = None) -> Source:
        """What the decoder sees of sources [batch, tokens], once its encoder has read them. lengths: of the rows, where
        some are padded at their ends.
        """
        if self.encoder is None:
            raise ValueError(f"this {self.spec.family} has no encoder that could read a source")
        states = self.encoder.hidden(source_ids, context=self.encoder.context_of(source_ids, lengths))
        crosses = [layer.cross for layer in self.layers if isinstance(layer, Layer) and layer.cross is not None]
        return Source([cross.remembered(states) for cross in crosses], lengths)

    def context_of(self, token_ids: Tensor, lengths: Tensor | None = None, source: Source | None = None) -> Context:
        """What the tokens of one call see of each other, and of the source that `read` gave where there is an encoder.
        lengths: of an encoder's rows, where some are padded.
        """
        tokens = token_ids.shape[1]
        if self.spec.causal and self.encoder is not None:
            if source is None:
                raise ValueError(f"a {self.spec.family} goes on from a source: give what `read` makes of it")
            return SourcedContext(source, self.causal_bias(tokens))
        if self.spec.causal:
            return CausalContext(self.causal_bias(tokens))
        bias = None
        if self.distances is not None:
            buckets = distance_buckets(tokens, self.spec.relative_buckets, self.spec.relative_distance)
            bias = self.distances(buckets.to(token_ids.device)).permute(2, 0, 1)
        return WholeContext(tokens, lengths, bias)

    def past_bias(self, tokens: int) -> Tensor | None:
        """What a decoder's heads add to the scores of tokens at each distance back: [heads, tokens], or nothing."""
        if self.distances is None:
            return None
        buckets = past_buckets(tokens, self.spec.relative_buckets, self.spec.relative_distance)
        return self.distances(buckets.to(self.distances.weight.device)).T

    def causal_bias(self, tokens: int) -> Tensor | None:
        """The same for each pair of tokens: [heads, tokens, tokens]; anything for what stands behind."""
        past = self.past_bias(tokens)
        if past is None:
            return None
        places = torch.arange(tokens, device=past.device)
        return past[:, (places[:, None] - places[None, :]).clamp(min=0)]

    def embed(self, token_ids: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Turns]:
        """What the first layer takes: states [batch, tokens, hidden], and how rotary positions turn them."""
        if positions is None:
            positions = torch.arange(token_ids.shape[1], device=token_ids.device).expand_as(token_ids)
        x = self.looked_up(token_ids, positions)
        pairs = zip(self.ropes.items(), self.frequencies, strict=True) if self.spec.rope else ()
        return x, {name: rotation(positions, table, x.dtype, rope.magnitude) for (name, rope), table in pairs}

    def looked_up(self, token_ids: Tensor, positions: Tensor) -> Tensor:
        """Embeddings of tokens, scaled, and of learned positions and the first type, normalised where a norm is."""
        x = self.embedding(token_ids)
        if self.spec.embedding_scale != 1:
            x = x * rounded(self.spec.embedding_scale, x.dtype)
        if self.token_types is not None:
            x = x + self.token_types(token_ids.new_zeros(1))
        if self.positions is not None:
            x = x + self.positions(positions + self.spec.position_offset)
        return x if self.embedding_norm is None else self.embedding_norm(x)

    def compute_of(self, operating_points: Sequence[float], factors: Sequence[float] = ()) -> Compute:
        """An account for rows at these operating points, with nothing spent; with factors they choose together."""
        asked = OperatingPoints(operating_points, self.device, factors)
        return Compute.of(asked, self.whole, self.thresholds)

    def prepare(self) -> None:
        """Makes ready what depends on the weights; call it once they are loaded."""
        for layer in self.layers:
            if isinstance(layer, Layer):
                layer.ffn.prepare()
        if self.encoder is not None:
            self.encoder.prepare()
        self.whole = whole_of(self)

    def head(self, hidden: Tensor, compute: Compute | None = None, rows: Tensor | None = None) -> Tensor:
        """Logits [..., vocab] of normalised states [..., hidden], those of every row of a pass or of `rows` of it.

        Without an account all of the head is read.
        """
        table = self.embedding.project if self.untied_head is None else self.untied_head
        if self.spec.head_scale != 1:
            hidden = hidden * self.spec.head_scale
        logits = soft_capped(table(hidden, compute, rows), self.spec.logit_soft_cap)
        return logits if self.logit_bias is None else logits + self.logit_bias[0]


def _positions(spec: TransformerSpec) -> TensorModule | None:
    """What is added to the embedding of a token by where it stands."""
    if spec.positions == "learned":
        return Embedding(spec.max_context + spec.position_offset, spec.hidden_size)
    return Sinusoids(spec.hidden_size) if spec.positions == "sinusoidal" else None


def rounded(value: float, dtype: torch.dtype) -> float:
    """The number of a dtype that is nearest: factors of a model were that when it was trained."""
    mantissa, exponent = math.frexp(value)
    steps = 2 / torch.finfo(dtype).eps
    return math.ldexp(round(mantissa * steps) / steps, exponent)


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
