"""A walk through the modules of the Transformer, in the order in which they compute, that writes them as instructions.

`transformer.py` stays the one definition; kernels/instructions.py says what instructions there are. What a step costs
by its graded linears is noted by price on the way.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..kernels.instructions import AtOnce, ByExpert, Choice, Counted, Points, View
from ..kernels.native_expert_ffn import CODES
from ..kernels.paged_attention import KVPages
from .compute import Compute, Prices
from .ffn.dense import FFN
from .ffn.mixture import ROUNDING, MixtureFFN
from .ffn.planes import PlaneFFN
from .ffn.routed import RoutedFFN
from .ffn.sparse import SparseFFN
from .linear import CentredLinear, Embedding, Graded, Int8Embedding, Int8Linear, Linear, TensorModule
from .relative import ahead_buckets
from .rope import rotation
from .spec import TransformerSpec
from .transformer import Attention, CrossAttention, Layer, NoNorm, Norm, Transformer


class NoProgramError(Exception):
    """The message says what a program has no instruction for."""


def unwritten(spec: TransformerSpec) -> str:
    """What no instruction says in models of this spec, as the end of a sentence; nothing where all can be written."""
    for layer in (*spec.layers, *(spec.encoder.layers if spec.encoder else ())):
        if layer.ffn.activation not in CODES:
            return f"its activation is {layer.ffn.activation}"
    return ""


def turns_of(model: Transformer, count: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of so many positions, table beside table: fp32 [count, values of all tables]."""
    places, ropes = torch.arange(count, device=model.frequencies.device).unsqueeze(0), model.ropes.values()
    pairs = zip(ropes, model.frequencies, strict=True)
    tables = [rotation(places, table, torch.float32, rope.magnitude) for rope, table in pairs]
    cosines, sines = zip(*tables, strict=True)
    return torch.cat(cosines, -1)[0, 0].contiguous(), torch.cat(sines, -1)[0, 0].contiguous()


def distances_of(model: Transformer, count: int) -> tuple[Tensor, int] | None:
    """What heads add to scores by how far ahead a key stands, for so many positions: fp32 [heads, columns], and the
    column of the query's own. A decoder sees nothing ahead.
    """
    if model.distances is None:
        return None
    past = model.past_bias(count) if model.spec.causal else None
    if past is not None:
        return past.float().flip(1).contiguous(), count - 1
    ahead = torch.arange(1 - count, count)
    buckets = ahead_buckets(ahead, model.spec.relative_buckets, model.spec.relative_distance)
    return model.distances(buckets).float().T.contiguous(), count - 1


def chooses_neurons(spec: TransformerSpec) -> bool:
    """Whether FFNs of models of this spec compute a part of their neurons at some tiers."""
    return spec.num_tiers > 1 and any(layer.ffn.experts.size for layer in spec.layers)


@dataclass
class StepPrices:
    """What there is to count in a step, by the rows of `Counted` for bits of graded linears and for units of FFNs that
    choose neurons. Parts of a model that have the same price are one row, with all that they read anyway.
    """

    bits: list[Prices] = field(default_factory=list)
    units: list[Prices] = field(default_factory=list)


def write_step(program: ByExpert | AtOnce, model: Transformer, pages: Sequence[KVPages]) -> StepPrices:
    """Writes all of a step.

    Linears are those that the model's modules hold: packed ones where they are packed.
    """
    walk = _Walk(program, model)
    walk.write(pages)
    return walk.prices


def write_reading(
    program: ByExpert, encoder: Transformer, pages: KVPages, kept: Sequence[tuple[CrossAttention, KVPages]] = ()
) -> None:
    """Writes a pass of an encoder, all of whose layers keep what rows see of each other in the same pages.

    kept: where each layer of a decoder that goes on from it looks for its keys and values.
    """
    _Walk(program, encoder).write_reading(pages, kept)


def note(compute: Compute, prices: StepPrices, counted: Counted) -> None:
    """Puts what a step read into the account."""
    neurons: Tensor | None = counted.neurons
    for price, bits in zip(prices.bits, counted.bits, strict=True):
        compute.spent.note_graded(price, bits, neurons, 1)
        neurons = None
    for price, units in zip(prices.units, counted.units, strict=True):
        compute.spent.note_sparse(price, units[: len(price.parts), compute.asked.num_full :], 1)


class _Walk:
    def __init__(self, program: ByExpert | AtOnce, model: Transformer) -> None:
        self._program, self._model = program, model
        self.prices = StepPrices()
        self._places: dict[str, View] = {}  # that layers share

    def write(self, pages: Sequence[KVPages]) -> None:
        model, program = self._model, self._program
        states, added = self._states(pages)
        program.gather(states, added)
        if model.spec.head_scale != 1:
            program.scale(added, added, model.spec.head_scale)
        head = model.embedding if model.untied_head is None else model.untied_head
        self._linear(head, added, program.place(model.spec.vocab_size))

    def write_reading(self, pages: KVPages, kept: Sequence[tuple[CrossAttention, KVPages]]) -> None:
        states, _ = self._states([pages] * len(self._model.layers))
        for cross, there in kept:
            key, value = (self._place(f"kept {i}", cross.counts[1] * cross.head_size) for i in range(2))
            self._linear(cross.key, states, key)
            self._linear(cross.value, states, value)
            self._program.keep(key, value, there, cross.head_size)
        self._program.gather(states, self._program.place(states.width))

    def _states(self, pages: Sequence[KVPages]) -> tuple[View, View]:
        """The states after the last layer, and a place beside them that is free."""
        model, program = self._model, self._program
        x, width = program.input, program.input.width
        normed, added = program.place(width), program.place(width)
        for layer, kept in zip(model.layers, pages, strict=True):
            if isinstance(layer, Layer):
                self._layer(layer, kept, x, normed, added)
        return self._normed(None if isinstance(model.norm, NoNorm) else model.norm, x, normed), added

    def _layer(self, layer: Layer, pages: KVPages, x: View, normed: View, added: View) -> None:
        self._attention(layer.attention, self._normed(layer.attention_norm, x, normed), added, pages)
        if layer.parallel:
            self._normed(layer.attention_post_norm, added, added)
        else:
            self._join(layer, added, x, layer.attention_post_norm)
        if layer.cross is not None:
            self._cross(layer.cross, self._normed(layer.cross_norm, x, normed), added, pages)
            self._join(layer, added, x, layer.cross_post_norm)
        made = self._place("made", x.width) if layer.parallel else added
        self._ffn(layer.ffn, self._normed(layer.ffn_norm, x, normed), made)
        if layer.parallel:
            self._program.add(added, x)
        self._join(layer, made, x, layer.ffn_post_norm)

    def _join(self, layer: Layer, added: View, x: View, norm: Norm | None) -> None:
        """The state with what was added to it, normed as the layer has it."""
        if not layer.norms_sums:
            self._normed(norm, added, added)
        self._program.add(added, x)
        if layer.norms_sums:
            self._normed(norm, x, x)

    def _normed(self, norm: Norm | None, source: View, target: View) -> View:
        """Where the rows are once they passed the norm, if there is one."""
        if norm is None:
            return source
        self._norm(norm, source, target)
        return target

    def _norm(self, norm: Norm, source: View, target: View) -> None:
        self._program.norm(source, target, norm.gain, norm.bias, norm.eps, norm.kind == "layer")

    def _attention(self, attention: Attention, source: View, target: View, pages: KVPages) -> None:
        size = attention.head_size
        widths = [count * size for count in attention.counts]
        parts = (attention.query, attention.key, attention.value)
        query, key, value = self._together(attention.packed, parts, source, widths)
        self._normed(attention.query_norm, query, query)
        self._normed(attention.key_norm, key, key)
        self._rotate(attention, query, key)
        mixed = self._place("mixed", widths[0])
        distances = self._model.distances is not None
        self._program.attend(query, key, value, mixed, pages, size, attention.weighing, distances)
        self._linear(attention.output, mixed, target)

    def _cross(self, attention: CrossAttention, source: View, target: View, pages: KVPages) -> None:
        size = attention.head_size
        query, mixed = (self._place(name, attention.counts[0] * size) for name in ("asked of a source", "mixed"))
        self._linear(attention.query, source, query)
        self._program.look_up(query, mixed, pages, size, attention.weighing)
        self._linear(attention.output, mixed, target)

    def _rotate(self, attention: Attention, query: View, key: View) -> None:
        names = list(self._model.ropes)
        if attention.rotary in names:
            turned = 2 * self._model.frequencies.shape[1]
            for view in [query.joined(key)] if query.place == key.place else [query, key]:
                table = names.index(attention.rotary) * turned
                self._program.rotate(view, attention.head_size, turned, table)

    def _ffn(self, ffn: FFN, source: View, target: View) -> None:
        if isinstance(ffn, MixtureFFN):
            self._mixture(ffn, source, target)
        elif isinstance(ffn, RoutedFFN):
            self._routed(ffn, source, target)
        elif isinstance(ffn, PlaneFFN):
            self._program.among("full")
            self._dense(ffn, source, target)
            self._program.among("sparse")
            points = self._points(ffn)
            self._program.plane_ffn(source, target, ffn.planes, ffn.bits, ffn.tile, ffn.activation_name, points)
            self._program.among("all")
        else:
            self._dense(ffn, source, target)

    def _routed(self, ffn: RoutedFFN, source: View, target: View) -> None:
        if ffn.weights is not None and ffn.matrices is not None:
            points = self._points(ffn)
            self._program.expert_ffn(source, target, ffn.weights, ffn.matrices, ffn.tile, ffn.activation_name, points)

    def _mixture(self, ffn: MixtureFFN, source: View, target: View) -> None:
        program, neurons = self._program, ffn.width // ffn.active
        units = _row_of(ffn.prices, self.prices.units)
        choice = Choice(ffn.active, ffn.normalised, ffn.thresholds, ROUNDING, neurons, units)
        if not isinstance(program, AtOnce):
            self._by_expert(program, ffn, source, target, choice)
        elif ffn.weights is not None:
            program.mixture_ffn(source, target, ffn.weights, ffn.choice.weight, ffn.activation_name, choice)

    def _by_expert(self, program: ByExpert, ffn: MixtureFFN, source: View, target: View, choice: Choice) -> None:
        scores, parts = self._place("scores", len(ffn.experts)), self._place("parts", len(ffn.experts))
        taken, made = self._place("taken", source.width), self._place("of an expert", target.width)
        self._linear(ffn.choice, source, scores)
        program.choose_experts(scores, parts, target, choice)
        for i, expert in enumerate(ffn.experts):
            if isinstance(expert, FFN):
                program.take(source, taken, parts, i)
                self._dense(expert, taken, made)
                program.give(made, target, parts, i)

    def _points(self, ffn: SparseFFN) -> Points:
        return Points(ffn.thresholds, ffn.compensation, _row_of(ffn.prices, self.prices.units))

    def _dense(self, ffn: FFN, source: View, target: View) -> None:
        neurons = self._place("neurons", ffn.width)
        if ffn.gate is None:
            up = self._place("up", ffn.width)
            self._linear(ffn.up, source, up)
            self._program.activate(up, neurons, ffn.activation_name)
        else:
            gate, up = self._together(ffn.packed, (ffn.gate, ffn.up), source, [ffn.width] * 2)
            self._program.activate(up, neurons, ffn.activation_name, gate)
        self._linear(ffn.down, neurons, target)

    def _together(
        self, whole: tuple[TensorModule] | None, parts: Sequence[TensorModule], source: View, widths: Sequence[int]
    ) -> list[View]:
        """What linears over the same rows give, side by side where they are one."""
        if whole is None:
            found = [self._place(f"part {i}", width) for i, width in enumerate(widths)]
            for linear, view in zip(parts, found, strict=True):
                self._linear(linear, source, view)
            return found
        both = self._place("whole", sum(widths))
        self._linear(whole[0], source, both)
        return [both.columns(sum(widths[:i]), width) for i, width in enumerate(widths)]

    def _place(self, name: str, width: int) -> View:
        """One table for all layers, whose widths may differ where a model was pruned."""
        if name not in self._places:
            self._places[name] = self._program.place(width)
        return self._program.widened(self._places[name], width)

    def _linear(self, linear: TensorModule, source: View, target: View) -> None:
        if isinstance(linear, Graded) and linear.held is not None:
            price = _row_of(linear.prices, self.prices.bits)
            if isinstance(linear, CentredLinear):  # nothing else reads this place
                self._program.shift(source, -linear.centre)
            self._program.graded_linear(source, target, linear.held, price, linear.counts_neurons)
        elif isinstance(linear, Int8Linear | Int8Embedding) and linear.digits is not None:
            self._program.digit_linear(source, target, linear.digits)
        elif isinstance(linear, Linear | Embedding):
            self._program.dense_linear(source, target, linear.weight, getattr(linear, "bias", None))


def _row_of(prices: Prices, rows: list[Prices]) -> int:
    """The row in which what has this price is counted; what is read anyway is added up."""
    for i, known in enumerate(rows):
        if known.parts == prices.parts:
            rows[i] = Prices(known.fixed + prices.fixed, known.parts)
            return i
    rows.append(prices)
    return len(rows) - 1
