"""The Transformer as a program for the C++: a walk through its modules in the order in which they compute.

`transformer.py` stays the one definition. What the walk meets and has no instruction for ends it, with the reason, and
the model runs module by module.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels.graded.bytes import MAX_INPUTS
from ..kernels.native import ISAS, native
from ..kernels.native_attention import MOST_SIZE
from ..kernels.native_expert_ffn import CODES
from ..kernels.native_program import WEIGHT_KINDS, Counted, Program, View
from ..kernels.paged_attention import KVPages, PagedTokens, padded_size
from ..kernels.weighing import soft_capped
from .compute import Compute, Prices
from .ffn.dense import FFN
from .linear import (
    Embedding,
    Graded,
    Int8Embedding,
    Int8Linear,
    Linear,
    TensorModule,
)
from .packing import pack_digits_
from .rope import rotation
from .spec import TransformerSpec
from .transformer import Attention, Layer, Norm, Transformer

_POSITIONS = 256  # for which turns are made at first


class NoProgramError(Exception):
    """The message says what a program has no instruction for."""


class StepProgram:
    """A model over its pages, run by one call for all rows of a step. Raises NoProgramError where that cannot be.

    Its plain int8 linears are packed for two digits on the way, and it has to stay as it is from then on.
    """

    def __init__(self, model: Transformer, pages: Sequence[KVPages]) -> None:
        library = native()
        if library is None or ISAS[library.isa] == "portable":
            raise NoProgramError("there is no C++ library for this processor's vector instructions")
        _check(model, pages)
        pack_digits_(model)
        self._model, self._blocks, self._prices = model, len(pages[0].keys), list[Prices]()
        self._turn: tuple[Tensor, Tensor] | None = None
        self._places = dict[tuple[str, int], View]()  # that layers share
        self._program = Program(library, model.spec.hidden_size)
        self._write(pages)

    def run(self, ids: Tensor, tokens: PagedTokens, compute: Compute | None, kept: Tensor, threads: int) -> Tensor:
        """Logits fp32 [scored, vocab] of the rows that are `kept`, int64 [scored]; ids: int64 [rows].

        What rows read goes into the account. Raises IndexError and MemoryError as `Program.run` does.
        """
        asks = compute is not None and compute.thresholds is not None and not compute.asked.all_full
        thresholds = compute.thresholds if compute is not None and asks else None
        rows = torch.zeros(len(ids)) if thresholds is None else thresholds.contiguous()
        x = self._embedded(ids, tokens.positions)
        found, counted = self._program.run(x, tokens, self._blocks, self._turns(tokens), rows, kept, threads)
        found = soft_capped(found, self._model.spec.logit_soft_cap)
        if compute is not None and asks:
            self._note(compute, counted)
        return found

    def _embedded(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self._model.looked_up(ids, positions.long()).float().contiguous()

    def _turns(self, tokens: PagedTokens) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of all positions up to the longest, table beside table."""
        if self._model.spec.rope is None:
            return None
        if self._turn is None or len(self._turn[0]) < tokens.longest:
            count = max(_POSITIONS, 1 << (tokens.longest - 1).bit_length())
            places, ropes = torch.arange(count).unsqueeze(0), self._model.ropes.values()
            tables = [
                rotation(places, table, torch.float32, rope.magnitude)
                for rope, table in zip(ropes, self._model.frequencies, strict=True)
            ]
            cosines, sines = zip(*tables, strict=True)
            self._turn = torch.cat(cosines, -1)[0, 0].contiguous(), torch.cat(sines, -1)[0, 0].contiguous()
        return self._turn

    def _note(self, compute: Compute, counted: Counted) -> None:
        neurons: Tensor | None = counted.neurons
        for price, bits in zip(self._prices, counted.bits, strict=True):
            compute.spent.note_graded(price, bits, neurons, 1)
            neurons = None

    def _write(self, pages: Sequence[KVPages]) -> None:
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
        if (name, width) not in self._places:
            self._places[name, width] = self._program.place(width)
        return self._places[name, width]

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
        for i, known in enumerate(self._prices):
            if known.parts == prices.parts:
                self._prices[i] = Prices(known.fixed + prices.fixed, known.parts)
                return i
        self._prices.append(prices)
        return len(self._prices) - 1


def gap(spec: TransformerSpec) -> str:
    """What a program has no instruction for in models of this spec, as the end of a sentence; nothing where it has all.

    Where numbers lie, and in which dtype, is for `StepProgram` to judge.
    """
    if spec.is_mixture:
        return "its FFNs are mixtures of experts"
    for layer in spec.layers:
        if layer.ffn.experts.size and spec.num_tiers > 1:
            return "its FFNs choose neurons"
        if layer.ffn.activation not in CODES:
            return f"its activation is {layer.ffn.activation}"
        if padded_size(layer.attention.head_size) > MOST_SIZE:
            return f"its heads have {layer.attention.head_size} values, and the most is {MOST_SIZE}"
    return ""


def _check(model: Transformer, pages: Sequence[KVPages]) -> None:
    """Raises NoProgramError for a model with a part that has no instruction."""
    if missing := gap(model.spec):
        raise NoProgramError(missing)
    for layer, kept in zip(model.layers, pages, strict=True):
        if not isinstance(layer, Layer) or type(layer.ffn) is not FFN:
            raise NoProgramError("its FFNs are not dense")
        if kept.keys.dtype not in (torch.float32, torch.int8):
            raise NoProgramError(f"its keys and values are kept as {kept.keys.dtype}")
    for norm in (each for each in model.modules() if isinstance(each, Norm)):
        if not norm.weight.is_cpu or norm.weight.dtype != torch.float32:
            raise NoProgramError(f"it computes in {norm.weight.dtype} on {norm.weight.device}")
    for name, linear in model.named_modules():
        if isinstance(linear, Linear | Embedding | Int8Linear | Int8Embedding) and not _has_instruction(linear):
            weight = linear.weight
            raise NoProgramError(f"there is no instruction for {name}, a weight of {[*weight.shape]} in {weight.dtype}")


def _has_instruction(linear: TensorModule) -> bool:
    if isinstance(linear, Graded):
        return linear.held is not None
    weight = linear.weight
    if type(linear) in (Int8Linear, Int8Embedding) and isinstance(weight, Tensor):
        return weight.shape[1] <= MAX_INPUTS
    dense = type(linear) in (Linear, Embedding) and isinstance(weight, Tensor) and weight.is_contiguous()
    return dense and weight.dtype in WEIGHT_KINDS
