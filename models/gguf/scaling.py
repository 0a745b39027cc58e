"""Positions that are stretched, as GGUF says them: by keys, or by a tensor of what each frequency is divided by."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..rope import inverse_frequencies
from ..spec import RopeSpec
from .values import Values

FACTORS = "rope_freqs.weight"
_KIND, _FACTOR, _ORIGINAL = ".rope.scaling.type", ".rope.scaling.factor", ".rope.scaling.original_context_length"
_FAST, _SLOW = ".rope.scaling.yarn_beta_fast", ".rope.scaling.yarn_beta_slow"
_CONTEXTS = [8192, *(2**power for power in range(4, 21))]  # that llama3's factors may be of


def scaling_of(values: Values, factors: Tensor | None) -> dict[str, Any] | None:
    """The section `rope_scaling` of config.json, or None where nothing is stretched. factors: fp32, of FACTORS."""
    kind = values.text(_KIND, "none")
    if factors is not None:
        return _llama3(values, factors)
    if kind == "linear":
        return {"rope_type": "linear", "factor": values.number(_FACTOR)}
    if kind == "yarn":
        return {
            "rope_type": "yarn", "factor": values.number(_FACTOR),
            "original_max_position_embeddings": values.count(_ORIGINAL, values.count(".context_length")),
            "beta_fast": values.number(_FAST, 32.0), "beta_slow": values.number(_SLOW, 1.0),
        }  # fmt: skip
    return None


def _llama3(values: Values, factors: Tensor) -> dict[str, Any]:
    """That of Llama 3 whose factors these are, whatever context it began with."""
    for original in _CONTEXTS:
        rope = RopeSpec(
            values.number(".rope.freq_base", 10000.0), "llama3", float(factors.max()), original_context=original
        )
        if torch.allclose(factors, factors_of(rope, 2 * len(factors)), rtol=1e-3):
            return {
                "rope_type": "llama3", "factor": rope.factor, "low_freq_factor": rope.low_frequency_factor,
                "high_freq_factor": rope.high_frequency_factor, "original_max_position_embeddings": original,
            }  # fmt: skip
    raise CheckpointError(f"{values.file}: {FACTORS} are not those of Llama 3; moesaic cannot run them")


def factors_of(rope: RopeSpec, head_size: int) -> Tensor:
    """What each frequency is divided by, fp32 [head_size / 2]."""
    return inverse_frequencies(replace(rope, scaling="default"), head_size) / inverse_frequencies(rope, head_size)


def scaling_values(rope: RopeSpec) -> Iterator[tuple[str, str | int | float]]:
    """The keys of a file for these positions; those of llama3 are a tensor instead."""
    if rope.scaling in ("linear", "yarn"):
        yield from ((_KIND, rope.scaling), (_FACTOR, rope.factor))
    if rope.scaling == "yarn":
        yield from ((_ORIGINAL, rope.original_context), (_FAST, rope.high_frequency_factor))
        yield _SLOW, rope.low_frequency_factor
