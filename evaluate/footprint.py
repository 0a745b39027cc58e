"""The figures that belong beside every score: what a model weighs, reads, computes, and takes while it is scored."""

import resource
import sys
from dataclasses import dataclass

from ..models.cost import token_cost
from ..models.spec import TransformerSpec


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes and FLOPs a token are at batch 1 and without a past; peak memory is of the whole process so far."""

    bytes_on_disk: int
    bytes_read_per_token: int
    active_flops_per_token: int
    peak_memory_bytes: int
    tokens_per_second: float | None  # of scoring; None where no text was scored


def footprint(
    spec: TransformerSpec,
    bytes_on_disk: int,
    element_bytes: int,
    num_tokens: int = 0,
    seconds: float = 0.0,
    shares: tuple[float, float] = (1.0, 1.0),
) -> Footprint:
    """The footprint of a model that scored num_tokens in this many seconds; the rest is as in `token_cost`."""
    cost = token_cost(spec, element_bytes, shares=shares)
    speed = num_tokens / seconds if seconds else None
    return Footprint(bytes_on_disk, cost.bytes, cost.flops, peak_memory_bytes(), speed)


def peak_memory_bytes() -> int:
    """The most memory that this process ever had in use."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
