"""A walk through the modules of the Transformer, in the order in which they compute, that writes them as instructions.

`transformer.py` stays the one definition; kernels/instructions.py says what instructions there are. What a step costs
by its graded linears is noted by price on the way.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels.instructions import Counted, Instructions, View
from ..kernels.native_expert_ffn import CODES
from ..kernels.paged_attention import KVPages
from .compute import Compute, Prices
from .ffn.dense import FFN
from .linear import Embedding, Graded, Int8Embedding, Int8Linear, Linear, TensorModule
from .rope import rotation
from .spec import TransformerSpec
from .transformer import Attention, Layer, Norm, Transformer


class NoProgramError(Exception):
    """The message says what a program has no instruction for."""


def unwritten(spec: TransformerSpec) -> str:
    """What no instruction says in models of this spec, as the end of a sentence; nothing where all can be written."""
    if not spec.causal:
        return "it is an encoder"
    if spec.reads_sources:
        return "it reads a source"
    if spec.is_mixture:
        return "its FFNs are mixtures of experts"
    for layer in spec.layers:
        if layer.ffn.experts.size and spec.num_tiers > 1:
            return "its FFNs choose neurons"
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


def write_step(program: Instructions, model: Transformer, pages: Sequence[KVPages]) -> list[Prices]:
    """Writes all of a step. What graded linears of the same price read, they count in one row, that of its place here.

    Linears are those that the model's modules hold: packed ones where they are packed.
    """
    walk = _Walk(program, model)
    walk.write(pages)
    return walk.prices


def note(compute: Compute, prices: Sequence[Prices], counted: Counted) -> None:
    """Puts what a step read into the account."""
    neurons: Tensor | None = counted.neurons
    for price, bits in zip(prices, counted.bits, strict=True):
        compute.spent.note_graded(price, bits, neurons, 1)
        neurons = None


class _Walk:
    def __init__(self, program: Instructions, model: Transformer) -> None:
        self._program, self._model = program, model
        self.prices: list[Prices] = []
        self._places: dict[str, View] = {}  # that layers share

    def write(self, pages: Sequence[KVPages]) -> None:
        model, program = self._model, self._program
        x, width = program.input, program.input.width
        normed, added = program.place(width), program.place(width)
        for layer, kept in zip(model.layers, pages, strict=True):
            if isinstance(layer, Layer):
                self._layer(layer, kept, x, normed, added)
        self._norm(model.norm, x, normed)
        program.gather(normed, added)
        head = model.embedding if model.untied_head is None else model.untied_head
        self._linear(head, added, program.place(model.spec.vocab_size))

    def _layer(self, layer: Layer, pages: KVPages, x: View, normed: View, added: View) -> None:
        self._attention(layer.attention, self._normed(layer.attention_norm, x, normed), added, pages)
        self._normed(layer.attention_post_norm, added, added)
        if not layer.parallel:
            self._program.add(added, x)
        made = self._place("made", x.width) if layer.parallel else added
        self._ffn(layer.ffn, self._normed(layer.ffn_norm, x, normed), made)
        self._normed(layer.ffn_post_norm, made, made)
        for each in (added, made) if layer.parallel else (made,):
            self._program.add(each, x)

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
        self._program.attend(query, key, value, mixed, pages, size, attention.weighing)
        self._linear(attention.output, mixed, target)

    def _rotate(self, attention: Attention, query: View, key: View) -> None:
        names = list(self._model.ropes)
        if attention.rotary in names:
            turned = 2 * self._model.frequencies.shape[1]
            for view in [query.joined(key)] if query.place == key.place else [query, key]:
                table = names.index(attention.rotary) * turned
                self._program.rotate(view, attention.head_size, turned, table)

    def _ffn(self, ffn: FFN, source: View, target: View) -> None:
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
            price = self._price(linear.prices)
            self._program.graded_linear(source, target, linear.held, price, linear.counts_neurons)
        elif isinstance(linear, Int8Linear | Int8Embedding) and linear.digits is not None:
            self._program.digit_linear(source, target, linear.digits)
        elif isinstance(linear, Linear | Embedding):
            self._program.dense_linear(source, target, linear.weight, getattr(linear, "bias", None))

    def _price(self, prices: Prices) -> int:
        """The row in which linears with as many outputs count their bits; what they read anyway is added up."""
        for i, known in enumerate(self.prices):
            if known.parts == prices.parts:
                self.prices[i] = Prices(known.fixed + prices.fixed, known.parts)
                return i
        self.prices.append(prices)
        return len(self.prices) - 1
