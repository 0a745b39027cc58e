"""A GPU that is not there: tensors without numbers, on whose device every operation of torch can be asked for.

A torch that was built for CPUs makes such tensors, and refuses calls from Python that its C++ guards by a device:
indexing, copies between devices, some that allocate. Here they are made of operations, which pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_OPS: Any = torch.ops.aten
_NAMES = {"__invert__": "bitwise_not"}


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Whoever asks such a tensor for a number, or mixes devices, fails."""
    with FakeTensorMode(allow_non_fake_inputs=False), _ByOperations():
        yield


class _ByOperations(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        more = kwargs or {}
        if func is Tensor.__getitem__ and args[0].is_cuda:
            return _taken(args[0], args[1])
        if func is Tensor.__setitem__ and args[0].is_cuda:
            return _put(*args)
        if func is Tensor.copy_ and args[0].is_cuda:
            return args[0].add_(0) if not args[1].is_cuda else _OPS.copy_.default(args[0], args[1])
        if func is Tensor.to and "cuda" in str(args[1:2]) and not args[0].is_cuda:
            return torch.empty_like(args[0], device="cuda")
        try:
            return func(*args, **more)
        except RuntimeError as error:
            if "not linked with support" not in str(error):
                raise
            name = func.__name__
            return getattr(_OPS, _NAMES.get(name, name))(*args, **more)


def _taken(x: Tensor, index: Any) -> Any:
    """x[index] of slices, numbers, None, an ellipsis and tensors."""
    places = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [each for each in places if not isinstance(each, Tensor)]:
        at = next(i for i, each in enumerate(places) if each is Ellipsis)
        places[at : at + 1] = [slice(None)] * (x.dim() - sum(each is not None for each in places) + 1)
    tensors: list[Tensor | None] = []
    for each in places:
        axis = len(tensors)
        if each is None:
            x = _OPS.unsqueeze.default(x, axis)
            tensors.append(None)
        elif isinstance(each, slice):
            x = _OPS.slice.Tensor(x, axis, each.start, each.stop, each.step or 1)
            tensors.append(None)
        elif isinstance(each, int):
            x = _OPS.select.int(x, axis, each)
        else:
            tensors.append(each if isinstance(each, Tensor) else torch.tensor(each, device="cuda"))
    return _OPS.index.Tensor(x, tensors) if any(each is not None for each in tensors) else x


def _put(x: Tensor, index: Any, value: Any) -> None:
    places = index if isinstance(index, tuple) else (index,)
    new = value if isinstance(value, Tensor) else _OPS.full_like.default(x.new_empty(()), value)
    if any(isinstance(each, Tensor) for each in places):
        heads = [each if isinstance(each, Tensor) else None for each in places]
        sliced = tuple(slice(None) if isinstance(each, Tensor) else each for each in places)
        _OPS.index_put_.default(_taken(x, sliced), heads, new.to(x.dtype))
    else:
        _OPS.copy_.default(_taken(x, index), new)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every operation with the shapes of its tensors and all its other arguments."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(f"{func} {_told(args)} {_told(list((kwargs or {}).items()))}")
        return func(*args, **(kwargs or {}))


def _told(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (tuple(value.shape), str(value.dtype), str(value.device))
    return [_told(each) for each in value] if isinstance(value, list | tuple) else repr(value)
