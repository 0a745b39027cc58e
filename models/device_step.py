"""A decode step of the Transformer on a GPU: the launches of kernels/decode/program.py, for up to 8 rows.

What else a pass may be, prompts above all, runs module by module.
"""

from collections.abc import Sequence

from torch import Tensor

from ..kernels.decode.program import DecodeProgram
from ..kernels.digit_triton import MOST_TOKENS
from ..kernels.graded.launches import takes
from ..kernels.jit import HAS_TRITON
from ..kernels.mixture.weights import takes as takes_experts
from ..kernels.paged_attention import KVPages, PagedTokens
from ..kernels.planes.layout import can_pack
from ..kernels.tiles.launches import takes as takes_tiles
from ..kernels.weighing import soft_capped
from .compute import Compute
from .ffn.mixture import MixtureFFN
from .ffn.planes import PlaneFFN
from .ffn.routed import RoutedFFN
from .ffn.sparse import SparseFFN
from .linear import Graded
from .packing import pack_digits_, stack_mixtures_, tile_graded_, tiles_fit
from .transformer import Transformer
from .walk import NoProgramError, note, turns_of, unwritten, write_step


class DeviceStep:
    """A model over its pages. Raises NoProgramError where there are no kernels for it.

    Its plain int8 linears are packed for two digits on the way, and it has to stay as it is from then on. longest: the
    most positions of a sequence. Nothing of a run waits for the device or depends on values: a CUDA graph can hold it.
    """

    def __init__(self, model: Transformer, pages: Sequence[KVPages], longest: int) -> None:
        _check(model)
        stack_mixtures_(model)
        pack_digits_(model)
        if tiles_fit(model):
            tile_graded_(model)
        device = model.norm.weight.device
        self._model = model
        turns = turns_of(model, longest) if model.spec.rope else None
        self.program = DecodeProgram(model.spec.hidden_size, longest, device, turns)
        self._prices = write_step(self.program, model, pages)
        self.program.join()

    def takes(self, counts: Sequence[int]) -> bool:
        """Whether it computes a pass of so many tokens of each sequence."""
        return len(counts) <= MOST_TOKENS and max(counts) == 1

    def run(
        self,
        ids: Tensor,
        tokens: PagedTokens,
        compute: Compute | None,
        kept: Tensor,
        threads: int,
        sources: PagedTokens | None = None,
    ) -> Tensor:
        """Logits fp32 [rows, vocab]; ids: int64 [rows]. What rows read goes into the account.

        kept: every row, as each makes a token; threads: of a CPU, which has nothing to do here; sources: none, of the
        models that have a step.
        """
        model, program, rows = self._model, self.program, len(ids)
        places = program.buffers
        width = min(tokens.tables.shape[1], places.tables.shape[1])
        places.tables[:rows, :width].copy_(tokens.tables[:, :width])
        places.positions[:rows].copy_(tokens.positions)
        full = self._ask(compute, rows)
        program.x[:rows].copy_(model.looked_up(ids, tokens.positions.long()))
        found = program.run(rows, full)
        if compute is not None and not compute.asked.all_full:
            prices = len(self._prices.bits), len(self._prices.units)
            note(compute, self._prices, places.counted(rows, full, *prices))
        return soft_capped(found.clone(), model.spec.logit_soft_cap)

    def _ask(self, compute: Compute | None, rows: int) -> int:
        """Brings what rows ask to where launches look for it; how many are at the full tier."""
        places, asked = self.program.buffers, None if compute is None else compute.asked
        places.thresholds[:rows].zero_()
        if compute is None or asked is None or asked.all_full:
            return rows
        if compute.thresholds is not None:
            places.thresholds[:rows].copy_(compute.thresholds)
        if not self._prices.units:
            return asked.num_full
        if not isinstance(asked.full_rows, slice):
            raise ValueError("rows at the full tier come first in a step whose FFNs choose neurons")
        places.tiers[:rows].copy_(asked.tiers)
        if asked.parts is None:
            places.shares[:rows].zero_()
        else:
            places.shares[:rows].copy_(asked.parts[:, 0])
        return asked.num_full


def _check(model: Transformer) -> None:
    """Raises NoProgramError for a model with a part that has no kernel."""
    if not HAS_TRITON:
        raise NoProgramError("triton is not installed")
    if missing := unwritten(model.spec):
        raise NoProgramError(missing)
    if model.spec.reads_sources:
        raise NoProgramError("it reads a source")
    for mixture in (each for each in model.modules() if isinstance(each, MixtureFFN)):
        hidden, width = mixture.choice.weight.shape[1], mixture.width // mixture.active
        if not mixture.stacks or not all(dtype and takes_experts(hidden, width, dtype) for _, dtype in mixture.kinds):
            raise NoProgramError(f"there is no kernel for experts of {hidden} inputs in {_kinds(mixture)}")
    for ffn in (each for each in model.modules() if isinstance(each, SparseFFN)):
        if not _has_kernels(ffn):
            raise NoProgramError(f"there is no kernel for FFNs that choose {_chosen(ffn)}")
    for name, linear in model.named_modules():
        if isinstance(linear, Graded) and (linear.held is None or not takes(linear.held.packed, 1)):
            raise NoProgramError(f"there is no kernel for the planes of {name}")


def _has_kernels(ffn: SparseFFN) -> bool:
    if isinstance(ffn, RoutedFFN):
        return takes_tiles(ffn.weights) and ffn.matrices is not None
    return isinstance(ffn, PlaneFFN) and ffn.tile == 1 and can_pack(ffn.bits, ffn.hidden_size)


def _kinds(mixture: MixtureFFN) -> str:
    """What experts are made of, as the end of a sentence."""
    return " and ".join(sorted(f"{kind.__name__} of {dtype}" for kind, dtype in mixture.kinds))


def _chosen(ffn: SparseFFN) -> str:
    """What an FFN chooses, and how, as the end of a sentence."""
    tiles = "neurons" if ffn.tile == 1 else f"tiles of {ffn.tile}"
    if isinstance(ffn, PlaneFFN):
        return f"{tiles} by {ffn.bits} bits of {ffn.hidden_size} inputs"
    dtype = "linears of several kinds" if not isinstance(ffn, RoutedFFN) or ffn.weights is None else ffn.weights.dtype
    return f"{tiles} of {ffn.hidden_size} inputs in {dtype}"
