"""A step of the Transformer as one call of the C++, on a CPU.

models/walk.py writes the program. What it has no instruction for ends it, with the reason, and the model runs module by
module.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels.graded.bytes import MAX_INPUTS
from ..kernels.native import ISAS, Native, native
from ..kernels.native_attention import MOST_SIZE
from ..kernels.native_expert_ffn import WEIGHTS
from ..kernels.native_program import WEIGHT_KINDS, Asked, Beside, Program
from ..kernels.paged_attention import KVPages, PagedTokens, padded_size
from ..kernels.planes.layout import can_pack
from ..kernels.route import NATIVE_DTYPES
from ..kernels.weighing import soft_capped
from .compute import Compute
from .ffn.dense import FFN
from .ffn.mixture import MixtureFFN
from .ffn.planes import PlaneFFN
from .ffn.routed import RoutedFFN
from .linear import Embedding, Graded, Int8DynamicLinear, Int8Embedding, Int8Linear, Linear, TensorModule
from .packing import in_experts, pack_digits_
from .spec import BIT_PLANES, ExpertSpec, TransformerSpec
from .transformer import Layer, NoNorm, Norm, Transformer
from .walk import NoProgramError, chooses_neurons, distances_of, note, turns_of, unwritten, write_step

_POSITIONS = 256  # for which turns and distances are made at first


class StepProgram:
    """A model over its pages, run by one call for all rows of a step. Raises NoProgramError where that cannot be.

    Its int8 linears are packed for two digits or one on the way, and it has to stay as it is from then on.
    """

    def __init__(self, model: Transformer, pages: Sequence[KVPages]) -> None:
        library = library_of_programs()
        _check(model, pages)
        pack_digits_(model, num_digits=(1, 2))
        self._model, self._positions = model, Positions(model)
        self._program = Program(library, model.spec.hidden_size)
        self._prices = write_step(self._program, model, pages)

    def takes(self, counts: Sequence[int]) -> bool:
        """Whether it computes a pass of so many tokens of each sequence."""
        return True

    def run(
        self,
        ids: Tensor,
        tokens: PagedTokens,
        compute: Compute | None,
        kept: Tensor,
        threads: int,
        sources: PagedTokens | None = None,
    ) -> Tensor:
        """Logits fp32 [scored, vocab] of the rows that are `kept`, int64 [scored]; ids: int64 [rows]; sources: where
        what rows go on from lies, in models that have some.

        What rows read goes into the account; where FFNs choose neurons, rows at the full tier come first. Raises
        IndexError and MemoryError as `Program.run` does.
        """
        asks = compute is not None and not compute.asked.all_full
        asked = Asked(torch.zeros(len(ids)), len(ids)) if compute is None or not asks else self._asked(compute)
        x = self._positions.embedded(ids, tokens.positions)
        beside = Beside(sources, None, *self._positions.distances(tokens.longest))
        turns = self._positions.turns(tokens.longest)
        found, counted = self._program.run(x, tokens, turns, asked, kept, threads, beside)
        found = soft_capped(found, self._model.spec.logit_soft_cap)
        if self._model.logit_bias is not None:
            found += self._model.logit_bias[0]
        if compute is not None and asks:
            note(compute, self._prices, counted)
        return found

    def _asked(self, compute: Compute) -> Asked:
        """What rows ask that are not all full."""
        asked = compute.asked
        if self._prices.units and not isinstance(asked.full_rows, slice):
            raise ValueError("rows at the full tier come first in a step whose FFNs choose neurons")
        thresholds = torch.zeros(asked.num_rows) if compute.thresholds is None else compute.thresholds.contiguous()
        tiers, parts = asked.tiers.contiguous(), None if asked.parts is None else asked.parts.contiguous()
        return Asked(thresholds, asked.num_full, tiers, parts, asked.factors)


class Positions:
    """What a pass is given by where tokens stand, made for more positions when there is a longer sequence."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._turn: tuple[Tensor, Tensor] | None = None
        self._distances: tuple[Tensor, int] | None = None

    def embedded(self, ids: Tensor, positions: Tensor) -> Tensor:
        """What the first layer takes of each row, fp32 [rows, hidden]."""
        return self._model.looked_up(ids, positions.long()).float().contiguous()

    def turns(self, longest: int) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of all positions up to the longest, table beside table."""
        if self._model.spec.rope is None:
            return None
        if self._turn is None or len(self._turn[0]) < longest:
            self._turn = turns_of(self._model, _rounded(longest))
        return self._turn

    def distances(self, longest: int) -> tuple[Tensor | None, int]:
        """What heads add to scores, and the column of the query's own position."""
        if self._model.distances is None:
            return None, 0
        if self._distances is None or self._distances[1] + 1 < longest:
            self._distances = distances_of(self._model, _rounded(longest))
        return self._distances or (None, 0)


def _rounded(longest: int) -> int:
    return max(_POSITIONS, 1 << (longest - 1).bit_length())


def library_of_programs() -> Native:
    """The C++. Raises NoProgramError where there is none with vector instructions."""
    library = native()
    if library is None or ISAS[library.isa] == "portable":
        raise NoProgramError("there is no C++ library for this processor's vector instructions")
    return library


def gap(spec: TransformerSpec) -> str:
    """What a program has no instruction for in models of this spec, as the end of a sentence; nothing where it has all.

    Where numbers lie, and in which dtype, is for `StepProgram` to judge.
    """
    if missing := unwritten(spec):
        return missing
    for layer in (*spec.layers, *(spec.encoder.layers if spec.encoder else ())):
        if chooses_neurons(spec) and (shape := _unpacked(spec.hidden_size, layer.ffn.experts)):
            return f"its FFNs choose neurons by {shape}"
        if padded_size(layer.attention.head_size) > MOST_SIZE:
            return f"its heads have {layer.attention.head_size} values, and the most is {MOST_SIZE}"
    return ""


def _unpacked(hidden_size: int, experts: ExpertSpec) -> str:
    """What planes have no packed form for; nothing where they have one, or there are no planes."""
    if experts.router != BIT_PLANES:
        return ""
    if experts.size != 1:
        return f"planes of tiles of {experts.size}"
    return "" if can_pack(experts.router_bits, hidden_size) else f"{experts.router_bits} bits of {hidden_size} inputs"


def _check(model: Transformer, pages: Sequence[KVPages]) -> None:
    """Raises NoProgramError for a model with a part that has no instruction."""
    check_parts(model)
    for kept in pages:
        if kept.keys.dtype not in (torch.float32, torch.int8):
            raise NoProgramError(f"its keys and values are kept as {kept.keys.dtype}")


def check_parts(model: Transformer) -> None:
    """The same of all but pages."""
    if missing := gap(model.spec):
        raise NoProgramError(missing)
    for layer in (*model.layers, *(model.encoder.layers if model.encoder else ())):
        if not isinstance(layer, Layer) or not _is_known(layer.ffn):
            raise NoProgramError("its FFNs have no instruction")
    for norm in (each for each in model.modules() if isinstance(each, Norm) and not isinstance(each, NoNorm)):
        if not norm.weight.is_cpu or norm.weight.dtype != torch.float32:
            raise NoProgramError(f"it computes in {norm.weight.dtype} on {norm.weight.device}")
    linears, own = Linear | Embedding | Int8Linear | Int8Embedding, in_experts(model)
    for name, linear in model.named_modules():
        if isinstance(linear, linears) and linear not in own and not _has_instruction(linear):
            weight = linear.weight
            raise NoProgramError(f"there is no instruction for {name}, a weight of {[*weight.shape]} in {weight.dtype}")


def _is_known(ffn: TensorModule) -> bool:
    if isinstance(ffn, RoutedFFN | PlaneFFN) and isinstance(ffn.down, Int8DynamicLinear):
        return False  # their full tier has one digit, their others have not
    if isinstance(ffn, RoutedFFN):
        return ffn.weights is not None and ffn.weights.dtype in WEIGHTS and _is_routed_by(ffn.matrices)
    if isinstance(ffn, PlaneFFN):
        return ffn.planes.packed is not None
    if isinstance(ffn, MixtureFFN):
        return not any(isinstance(each, Graded) for each in ffn.modules())
    return type(ffn) is FFN


def _is_routed_by(matrices: tuple[Tensor, Tensor] | None) -> bool:
    return matrices is not None and all(each.dtype in NATIVE_DTYPES for each in matrices)


def _has_instruction(linear: TensorModule) -> bool:
    if isinstance(linear, Graded):
        return linear.held is not None
    weight = linear.weight
    if type(linear) in (Int8Linear, Int8DynamicLinear, Int8Embedding) and isinstance(weight, Tensor):
        return weight.shape[1] <= MAX_INPUTS
    dense = type(linear) in (Linear, Embedding) and isinstance(weight, Tensor) and weight.is_contiguous()
    return dense and weight.dtype in WEIGHT_KINDS
