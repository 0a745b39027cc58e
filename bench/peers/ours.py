"""Our own side: a model directory at a tier, by the runner that serves."""

from collections.abc import Sequence

import torch

from ...engine.lockstep import Lockstep
from ...engine.runner import ModelRunner
from ...kernels.native import ISAS, native
from ...models.checkpoint import compute_dtype, dense_dtype, load_transformer, open_checkpoint
from ...models.cost import token_cost
from ...models.version import VERSION
from .peer import Stepping

_CPU = torch.device("cpu")


class Ours(Stepping):
    """Prompts are read at the full tier, as the engine does by default; tokens are decoded at `tier`."""

    version = VERSION

    def __init__(self, path: str, tier: str, rows: int, context: int) -> None:
        checkpoint = open_checkpoint(path)
        self._point = checkpoint.dial.operating_point(tier, None)
        share = checkpoint.dial.shares[int(self._point)]
        element_bytes = dense_dtype(checkpoint, _CPU, None).itemsize
        self.token_bytes = token_cost(checkpoint.spec, element_bytes, shares=(share, 1.0)).bytes
        model, dtype = load_transformer(checkpoint, _CPU), compute_dtype(checkpoint, _CPU, None)
        runner = ModelRunner(model, Lockstep.blocks(context, rows), context, dtype)
        self._rows = Lockstep(runner, rows, context)
        library = native()
        isa = ISAS[library.isa] if library else "torch"
        self.build = f"{isa}, {runner.without_program or 'a step is one call'}"

    def begin(self, threads: int) -> None:
        self._rows.runner.use_threads(threads)

    def prefill(self, row: int, token_ids: Sequence[int]) -> int:
        return int(self._rows.prefill(row, token_ids).logits.argmax())

    def decode(self, token_ids: Sequence[int], position: int) -> list[int]:
        found: list[int] = self._rows.decode(token_ids, position, self._point).logits.argmax(-1).tolist()
        return found


def tiers_of(path: str) -> tuple[str, ...]:
    """The tiers of a model directory, the full one first."""
    return open_checkpoint(path).dial.names
