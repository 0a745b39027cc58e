"""A decode step of the Transformer on a GPU: the launches of kernels/decode/program.py, captured as a CUDA graph for each
number of rows, 1, 2, 4 and 8. What else a pass may be, prompts above all, runs module by module.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels.decode.program import DecodeProgram
from ..kernels.digit_triton import MOST_TOKENS, rows_of
from ..kernels.graded.launches import takes
from ..kernels.jit import HAS_TRITON
from ..kernels.paged_attention import KVPages, PagedTokens
from .compute import Compute
from .linear import Embedding, Graded, Int8Embedding
from .packing import pack_digits_
from .rope import rotation
from .transformer import Transformer
from .walk import NoProgramError, check_walk, note, write_step


class DeviceStep:
    """A model over its pages. Raises NoProgramError where there are no kernels for it.

    Its plain int8 linears are packed for two digits on the way, and it has to stay as it is from then on. spare: a block
    that is nobody's, for rows that only fill a graph up. captured: whether steps are CUDA graphs.
    """

    def __init__(
        self, model: Transformer, pages: Sequence[KVPages], longest: int, spare: int, captured: bool = True
    ) -> None:
        _check(model)
        pack_digits_(model)
        device = model.norm.weight.device
        self._model, self._spare, self._captured = model, spare, captured
        self.program = DecodeProgram(model.spec.hidden_size, longest, device, _turns(model, longest, device))
        self._prices = write_step(self.program, model, pages)
        self._ids = torch.zeros(MOST_TOKENS, dtype=torch.int64, device=device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def takes(self, counts: Sequence[int]) -> bool:
        """Whether it computes a pass of so many tokens of each sequence."""
        return len(counts) <= MOST_TOKENS and max(counts) == 1

    def warm(self) -> None:
        """Compiles and captures steps of every number of rows, over the spare block."""
        for rows in sorted({rows_of(n) for n in range(1, MOST_TOKENS + 1)}):
            self._fill(torch.zeros(0, dtype=torch.int64), None, None, rows)
            self._step(rows)

    def run(self, ids: Tensor, tokens: PagedTokens, compute: Compute | None, kept: Tensor, threads: int) -> Tensor:
        """Logits fp32 [rows, vocab]; ids: int64 [rows]. What rows read goes into the account.

        kept: every row, as each makes a token; threads: of a CPU, which has nothing to do here.
        """
        rows = len(ids)
        asks = compute is not None and compute.thresholds is not None and not compute.asked.all_full
        self._fill(ids, tokens, compute.thresholds if compute is not None and asks else None, rows_of(rows))
        found = self._step(rows_of(rows))[:rows].clone()
        if compute is not None and asks:
            note(compute, self._prices, self.program.counted(rows_of(rows), len(self._prices)).first(rows))
        return found

    def _fill(self, ids: Tensor, tokens: PagedTokens | None, thresholds: Tensor | None, rows: int) -> None:
        """Puts what rows are into the buffers; those that only fill up stand at the start of the spare block."""
        program, count = self.program, len(ids)
        program.tables[count:rows].fill_(self._spare)
        for buffer in (self._ids, program.positions, program.thresholds):
            buffer[:rows].zero_()
        if tokens is not None:
            width = min(tokens.tables.shape[1], program.tables.shape[1])
            self._ids[:count] = ids
            program.tables[:count, :width] = tokens.tables[:, :width]
            program.positions[:count] = tokens.positions
        if thresholds is not None:
            program.thresholds[:count] = thresholds

    def _step(self, rows: int) -> Tensor:
        if not self._captured:
            return self._launched(rows)
        if rows not in self._graphs:
            self._launched(rows)  # compiles, which a graph must not hold
            torch.cuda.synchronize()
            self._graphs[rows] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graphs[rows]):
                self._launched(rows)
        self._graphs[rows].replay()
        return self.program.at(self.program.output)[:rows]

    def _launched(self, rows: int) -> Tensor:
        model, positions = self._model, self.program.positions[:rows]
        x = model.embedding(self._ids[:rows])
        if model.positions is not None:
            x = x + model.positions(positions.long() + model.spec.position_offset)
        self.program.x[:rows].copy_(x)
        return self.program.run(rows)


def _turns(model: Transformer, longest: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Cosines and sines of all positions."""
    if model.spec.rope is None:
        return None
    every = torch.arange(longest, device=device).unsqueeze(0)
    cosine, sine = rotation(every, model.frequencies.to(device), torch.float32)
    return cosine[0, 0].contiguous(), sine[0, 0].contiguous()


def _check(model: Transformer) -> None:
    """Raises NoProgramError for a model with a part that has no kernel."""
    if not HAS_TRITON:
        raise NoProgramError("triton is not installed")
    check_walk(model)
    for name, linear in model.named_modules():
        if isinstance(linear, Graded) and (linear.held is None or not takes(linear.held.packed, 1)):
            raise NoProgramError(f"there is no kernel for the planes of {name}")
