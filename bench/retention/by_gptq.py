"""FFNs in fewer bits by GPTQ, each matrix on what it is given once those before it are rounded."""

from dataclasses import dataclass, replace

from torch import Tensor

from ...models.progress import Progress
from .layer import LabLayer
from .linears.gptq import gptq
from .method import CalibrationData
from .static import FewerBits
from .weights import FFNWeights


@dataclass
class ByGPTQ(FewerBits):
    """GPTQ (Frantar et al. 2023) in the place of rounding to nearest, with as many bytes."""

    def __post_init__(self) -> None:
        self.name = self.name or f"int{self.bits} by GPTQ, groups of {self.columns}"

    def learn(self, material: CalibrationData, progress: Progress) -> None:
        self._forms = []
        for i, (layer, x) in enumerate(zip(material.layers, material.given, strict=True)):
            self._forms.append((layer, self._sequentially(layer, x.float())))
            progress(f"{self.name}: rounded", i + 1, len(material.layers))

    def _sequentially(self, layer: LabLayer, x: Tensor) -> FFNWeights:
        weights, hessian = layer.original, x.T @ x
        gate = None if weights.gate is None else gptq(weights.gate, hessian, self.bits, self.columns)
        found = replace(weights, up=gptq(weights.up, hessian, self.bits, self.columns), gate=gate)
        h = found.hidden(x)
        return replace(found, down=gptq(weights.down, h.T @ h, self.bits, self.columns))
