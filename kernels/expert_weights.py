"""The weights of an FFN whose neurons lie in expert order."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)


@dataclass(frozen=True, eq=False)
class ExpertWeights:
    """An FFN whose neurons lie in expert order: expert e is the neurons [e * size, (e + 1) * size), the last may be
    shorter.

    up, gate: [width, hidden]; down: [width, hidden], neuron-major: the transpose of the linear's weight, so that a
    skipped neuron is a skipped row. All contiguous and of one dtype: fp32, bf16, fp16 or int8. int8 brings up_scale
    and gate_scale, fp32 [width], and down_scale, fp32 [hidden]; the biases up_bias and gate_bias [width] and down_bias
    [hidden] are floating point or None. gate is None for plain FFNs.
    Raises TypeError for dtypes, ValueError for shapes, strides and devices.
    """

    up: Tensor
    down: Tensor
    gate: Tensor | None = None
    up_scale: Tensor | None = None
    gate_scale: Tensor | None = None
    down_scale: Tensor | None = None
    up_bias: Tensor | None = None
    gate_bias: Tensor | None = None
    down_bias: Tensor | None = None

    def __post_init__(self) -> None:
        if self.up.dtype not in DTYPES or self.up.dim() != 2:
            raise TypeError(
                f"up must be float32, bfloat16, float16 or int8 [width, hidden], "
                f"it is {self.up.dtype} {list(self.up.shape)}"
            )
        for name, matrix in self._matrices.items():
            self._check_matrix(name, matrix)
        for name, vector in self.vectors.items():
            self._check_vector(name, vector)
        for name in self._matrices:
            if (getattr(self, f"{name}_scale") is not None) != (self.dtype == torch.int8):
                raise ValueError(f"{name}_scale belongs to int8 weights, and to them alone; {name} is {self.dtype}")
        if self.gate is None and (self.gate_scale is not None or self.gate_bias is not None):
            raise ValueError("gate_scale and gate_bias need a gate")

    @property
    def width(self) -> int:
        return self.up.shape[0]

    @property
    def hidden(self) -> int:
        return self.up.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        return self.up.dtype

    @cached_property
    def tensors(self) -> list[Tensor]:
        """The tensors that are there."""
        return [*self._matrices.values(), *self.vectors.values()]

    @cached_property
    def vectors(self) -> dict[str, Tensor]:
        """Scales and biases that are there, by name."""
        names = [f"{matrix}_{kind}" for matrix in ("up", "gate", "down") for kind in ("scale", "bias")]
        return {name: vector for name in names if (vector := getattr(self, name)) is not None}

    @property
    def _matrices(self) -> dict[str, Tensor]:
        gate = {} if self.gate is None else {"gate": self.gate}
        return {"up": self.up, **gate, "down": self.down}

    def _check_matrix(self, name: str, matrix: Tensor) -> None:
        if matrix.shape != self.up.shape or not matrix.is_contiguous():
            raise ValueError(
                f"{name} must be contiguous {list(self.up.shape)}, neuron-major like up, "
                f"it is {list(matrix.shape)} with strides {matrix.stride()}"
            )
        if matrix.dtype != self.dtype or matrix.device != self.up.device:
            raise TypeError(
                f"{name} is {matrix.dtype} on {matrix.device}, up is {self.dtype} on {self.up.device}: "
                "they must be alike"
            )

    def _check_vector(self, name: str, vector: Tensor) -> None:
        length = self.hidden if name.startswith("down") else self.width
        if vector.shape != (length,) or not vector.is_contiguous():
            raise ValueError(f"{name} must be contiguous [{length}], it is {list(vector.shape)}")
        if vector.device != self.up.device:
            raise ValueError(f"{name} is on {vector.device}, up on {self.up.device}")
        if name.endswith("scale") and vector.dtype != torch.float32:
            raise TypeError(f"{name} must be float32, it is {vector.dtype}")
        if not vector.is_floating_point():
            raise TypeError(f"{name} must be floating point, it is {vector.dtype}")
