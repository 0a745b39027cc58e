"""How large everything is: as on a GPU, or small enough for a dry run."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Width:
    """An FFN in experts of `expert` neurons, its activation SiLU with a gate, or ReLU without."""

    hidden: int
    width: int
    expert: int
    gated: bool

    @property
    def activation(self) -> str:
        return "silu" if self.gated else "relu"

    @property
    def matrices(self) -> int:
        return 3 if self.gated else 2

    @property
    def experts(self) -> int:
        return math.ceil(self.width / self.expert)


@dataclass(frozen=True)
class Sizes:
    """tokens, shares: in the order of worth. rotated_bytes: of weights that calls walk over, many times a cache."""

    widths: tuple[Width, ...]
    tokens: tuple[int, ...]
    shares: tuple[float, ...]
    rotated_bytes: int
    most_copies: int
    seconds: float  # of samples a point

    def copies(self, layer_bytes: float) -> int:
        """How many copies of a layer have the rotated bytes together."""
        return min(self.most_copies, max(2, math.ceil(self.rotated_bytes / layer_bytes)))


GPU = Sizes(
    widths=(Width(576, 1536, 64, True), Width(2048, 8192, 128, False), Width(4096, 14336, 128, True)),
    tokens=(1, 8, 64, 2048, 2, 4, 16, 256),
    shares=(0.25, 0.125, 0.5, 1.0),
    rotated_bytes=512 << 20,
    most_copies=256,
    seconds=0.06,
)  # SmolLM2-135M, OPT-1.3B, Llama-3-8B
TOY = Sizes(
    widths=(Width(32, 64, 16, True), Width(48, 96, 16, False), Width(64, 128, 16, True)),
    tokens=(1, 8, 32),
    shares=(0.25, 1.0),
    rotated_bytes=1 << 18,
    most_copies=4,
    seconds=0.002,
)


def sizes_for(dry: bool) -> Sizes:
    return TOY if dry else GPU
