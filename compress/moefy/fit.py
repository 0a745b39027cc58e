"""What the high bits of a layer's int8 weights are worth, by regression on calibration text."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels.plane_ffn import PlaneWeights, plane_products
from ...kernels.planes.coarse import CoarseFit

_TOKENS = 512  # of which products are in memory at once


@dataclass(slots=True)
class Regression:
    """Least squares of y on x, neuron by neuron: sums over tokens, fp64 [width]."""

    count: int
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor

    @classmethod
    def empty(cls, width: int, device: torch.device | None = None) -> "Regression":
        """A regression over no token yet."""
        return cls(0, *(torch.zeros(width, dtype=torch.float64, device=device) for _ in range(5)))

    def add(self, x: Tensor, y: Tensor) -> None:
        """Takes in x and y of some tokens, [tokens, width] each."""
        a, b = x.double(), y.double()
        self.count += len(a)
        for total, part in ((self.x, a), (self.y, b), (self.xx, a * a), (self.xy, a * b), (self.yy, b * b)):
            total += part.sum(0)

    def solved(self) -> tuple[Tensor, Tensor, Tensor]:
        """(slope, intercept, standard deviation of what is left), fp64 [width]; slope 1 where x never changes."""
        count = max(self.count, 1)
        mean_x, mean_y = self.x / count, self.y / count
        spread = (self.xx / count - mean_x.square()).clamp(min=0)
        together = self.xy / count - mean_x * mean_y
        still = spread <= 1e-12 * mean_x.square()
        slope = torch.where(still, torch.ones_like(spread), together / torch.where(still, 1.0, spread))
        left = (self.yy / count - mean_y.square()) - 2 * slope * together + slope.square() * spread
        return slope, mean_y - slope * mean_x, left.clamp(min=0).sqrt()


def fitted(given: Sequence[Tensor], weights: PlaneWeights, bits: int, importance: Tensor) -> CoarseFit:
    """The fit of one layer on what its FFN is given, [.., tokens, hidden] each."""
    width, device = len(weights.up), weights.up.device
    rows = [Regression.empty(width, device) for _ in range(1 if weights.gate is None else 2)]
    for x in given:
        for part in torch.split(x.flatten(0, -2), _TOKENS):
            for row, (dot, exact) in zip(rows, plane_products(part, weights, bits), strict=True):
                row.add(dot, exact)
    found = [torch.stack(each).bfloat16() for each in zip(*(row.solved() for row in rows), strict=True)]
    return CoarseFit(found[0], found[1], found[2], importance.bfloat16())
