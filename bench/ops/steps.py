"""A decode step of a model of random weights, as one program or module by module."""

import torch

from ...engine.runner import ModelRunner, Span
from ...kernels.paged_attention import BLOCK_TOKENS
from ..gpu.random_models import random_model
from ..rounds import DEVICE, Round

PAST = 511  # tokens before the new one
_BLOCKS = PAST // BLOCK_TOKENS + 1


def step_round(kind: str, rows: int, shape: str, programmed: bool) -> Round:
    """A step of so many streams. Raises NotImplementedError with the reason where such a model has no program."""
    model = random_model(shape, kind, DEVICE, torch.float32)
    runner = ModelRunner(model, rows * _BLOCKS, PAST + 1, torch.float32, programmed=programmed)
    if programmed and runner.program is None:
        raise NotImplementedError(runner.without_program)
    spans = [Span([5], PAST, range(row * _BLOCKS, (row + 1) * _BLOCKS), decodes=True) for row in range(rows)]

    def run() -> None:
        runner.forward(spans)

    run()
    return run, 1
