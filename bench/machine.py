"""What the figures were taken on: device, versions, commit, and how fast its memory is read."""

import torch

from ..evaluate.provenance import provenance
from .clock import seconds_of


def machine_facts() -> dict[str, object]:
    """Everything that belongs beside a figure."""
    return {**provenance(), "read_bandwidth_gb_per_s": round(read_bandwidth() / 1e9, 1)}


def read_bandwidth(num_bytes: int = 256 << 20, rounds: int = 5) -> float:
    """Bytes per second at which memory beyond the caches is read, best of some rounds."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = torch.ones(num_bytes // 4, dtype=torch.float32, device=device)
    data.sum()  # what is loaded at the first call is not read
    return num_bytes / min(seconds_of(data.sum) for _ in range(rounds))
