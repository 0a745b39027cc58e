"""Triton where it is installed. Without it kernels are still defined, but must not be launched."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

HAS_TRITON = find_spec("triton") is not None

tl: Any = import_module("triton.language") if HAS_TRITON else None

if TYPE_CHECKING:
    constexpr = Any
else:
    constexpr = tl.constexpr if HAS_TRITON else None  # the annotation must be triton's own class


def jit(function: Callable[..., None]) -> Any:
    """`triton.jit`, or the function itself where triton is not installed."""
    return import_module("triton").jit(function) if HAS_TRITON else function


def constant(value: float) -> Any:
    """A number of a module that kernels may name."""
    return constexpr(value) if HAS_TRITON else value


def cdiv(count: int, block: int) -> int:
    """Blocks that cover `count` elements."""
    return -(-count // block)
