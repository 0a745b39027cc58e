"""The weights of a mixture of experts, those of all experts in one tensor each."""

from dataclasses import dataclass

import torch
from torch import Tensor

WORD = 4  # bytes: the least that a thread reads of int8 weights
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.int8)


@dataclass(frozen=True, eq=False)
class MixtureWeights:
    """gate, up: [experts, width, hidden]; down: [experts, hidden, width]; all contiguous and of one dtype: fp32, bf16,
    fp16 or int8. int8 brings gate_scale and up_scale, fp32 [experts, width], and down_scale, fp32 [experts, hidden].

    Raises TypeError for dtypes, ValueError for shapes, strides and devices.
    """

    gate: Tensor
    up: Tensor
    down: Tensor
    gate_scale: Tensor | None = None
    up_scale: Tensor | None = None
    down_scale: Tensor | None = None

    def __post_init__(self) -> None:
        if self.up.dtype not in DTYPES or self.up.dim() != 3:
            raise TypeError(
                f"up must be float32, bfloat16, float16 or int8 [experts, width, hidden], it is {self.up.dtype} "
                f"{list(self.up.shape)}"
            )
        for name, shape in (("gate", self.up.shape), ("up", self.up.shape), ("down", self._turned)):
            _check(name, getattr(self, name), shape, self.up.dtype, self.up.device)
            scale = getattr(self, f"{name}_scale")
            if (scale is None) == self.is_int8:
                raise ValueError(f"{name}_scale belongs to int8 weights, and to them alone; they are {self.up.dtype}")
            if scale is not None:
                _check(f"{name}_scale", scale, shape[:2], torch.float32, self.up.device)

    @property
    def experts(self) -> int:
        return self.up.shape[0]

    @property
    def width(self) -> int:
        return self.up.shape[1]

    @property
    def hidden(self) -> int:
        return self.up.shape[2]

    @property
    def is_int8(self) -> bool:
        return self.up.dtype == torch.int8

    @property
    def _turned(self) -> torch.Size:
        return torch.Size((self.experts, self.hidden, self.width))


def takes(hidden: int, width: int, dtype: torch.dtype) -> bool:
    """Whether there are kernels for experts of these sizes: rows of int8 in whole words."""
    return dtype in DTYPES and (dtype != torch.int8 or hidden % WORD == width % WORD == 0)


def _check(name: str, tensor: Tensor, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> None:
    if tensor.dtype != dtype:
        raise TypeError(f"{name} must be {dtype}, it is {tensor.dtype}")
    if tensor.shape != shape or not tensor.is_contiguous():
        raise ValueError(
            f"{name} must be contiguous {list(shape)}, it is {list(tensor.shape)} with strides {tensor.stride()}"
        )
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, up on {device}")
