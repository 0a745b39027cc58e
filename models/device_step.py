"""A decode step of the Transformer on a GPU: the launches of kernels/decode/program.py, for up to 8 rows.

What else a pass may be, prompts above all, runs module by module.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..kernels.decode.program import DecodeProgram
from ..kernels.digit_triton import MOST_TOKENS
from ..kernels.graded.launches import takes
from ..kernels.jit import HAS_TRITON
from ..kernels.paged_attention import KVPages, PagedTokens
from .compute import Compute
from .linear import Graded
from .packing import pack_digits_
from .rope import rotation
from .transformer import Transformer
from .walk import NoProgramError, check_walk, note, write_step


class DeviceStep:
    """A model over its pages. Raises NoProgramError where there are no kernels for it.

    Its plain int8 linears are packed for two digits on the way, and it has to stay as it is from then on. longest: the
    most positions of a sequence. Nothing of a run waits for the device or depends on values: a CUDA graph can hold it.
    """

    def __init__(self, model: Transformer, pages: Sequence[KVPages], longest: int) -> None:
        _check(model)
        pack_digits_(model)
        device = model.norm.weight.device
        self._model = model
        self.program = DecodeProgram(model.spec.hidden_size, longest, device, _turns(model, longest, device))
        self._prices = write_step(self.program, model, pages)
        self.program.join()

    def takes(self, counts: Sequence[int]) -> bool:
        """Whether it computes a pass of so many tokens of each sequence."""
        return len(counts) <= MOST_TOKENS and max(counts) == 1

    def run(self, ids: Tensor, tokens: PagedTokens, compute: Compute | None, kept: Tensor, threads: int) -> Tensor:
        """Logits fp32 [rows, vocab]; ids: int64 [rows]. What rows read goes into the account.

        kept: every row, as each makes a token; threads: of a CPU, which has nothing to do here.
        """
        model, program, rows = self._model, self.program, len(ids)
        asks = compute is not None and compute.thresholds is not None and not compute.asked.all_full
        width = min(tokens.tables.shape[1], program.tables.shape[1])
        program.tables[:rows, :width].copy_(tokens.tables[:, :width])
        program.positions[:rows].copy_(tokens.positions)
        if compute is not None and compute.thresholds is not None and asks:
            program.thresholds[:rows].copy_(compute.thresholds)
        else:
            program.thresholds[:rows].zero_()
        x = model.embedding(ids)
        if model.positions is not None:
            x = x + model.positions(tokens.positions.long() + model.spec.position_offset)
        program.x[:rows].copy_(x)
        found = program.run(rows)
        if compute is not None and asks:
            note(compute, self._prices, program.counted(rows, len(self._prices)))
        return found.clone()


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
