"""The instructions of PTX that kernels call by name, for the interpreter: as the manual of that ISA defines them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.int32]


class Result(NamedTuple):
    """What the interpreter asks the builder's answer for."""

    handle: Any

    def get_result(self, number: int) -> Any:
        assert number == 0
        return self.handle


def executed(assembly: str, operands: list[Words]) -> Words:
    """The value of `name $0, $1, .., constants;`, where $1 and on are operands."""
    name, _, arguments = assembly.strip().rstrip(";").partition(" ")
    target, *sources = [each.strip() for each in arguments.split(",")]
    registers = [each for each in sources if each.startswith("$")]
    assert target == "$0" and registers == [f"${i + 1}" for i in range(len(operands))]
    constants = [int(each, 16) for each in sources if not each.startswith("$")]
    return _INSTRUCTIONS[name](*operands, *constants)


def _bytes(words: Words, kind: type) -> NDArray[np.int64]:
    """[..., 4], the lowest first."""
    return np.ascontiguousarray(words)[..., np.newaxis].view(kind).astype(np.int64)


def _dp4a(kind: type) -> Callable[..., Words]:
    def dot(a: Words, b: Words, c: Words) -> Words:
        products: NDArray[np.int64] = _bytes(a, kind) * _bytes(b, np.int8)
        return np.asarray(c + products.sum(-1)).astype(np.int32)

    return dot


def _dp2a(half: int, kind: type = np.uint8) -> Callable[..., Words]:
    def dot(a: Words, b: Words, c: Words) -> Words:
        some = _bytes(b, kind)[..., 2 * half : 2 * half + 2]
        products: NDArray[np.int64] = _bytes(a, np.int16) * some
        return np.asarray(c + products.sum(-1)).astype(np.int32)

    return dot


def _prmt(a: Words, b: Words, selector: int) -> Words:
    every = np.concatenate([_bytes(a, np.uint8), _bytes(b, np.uint8)], axis=-1)
    places = [selector >> (4 * i) & 15 for i in range(4)]
    assert max(places) < 8  # the fourth bit would copy a sign
    return np.ascontiguousarray(every[..., places].astype(np.uint8)).view(np.int32)[..., 0]


def _lop3(a: Words, b: Words, c: int, table: int) -> Words:
    found, last = np.zeros_like(a), np.full_like(a, np.int64(c).astype(np.int32))
    for row in range(8):
        if table >> row & 1:
            found |= _as(a, row & 4) & _as(b, row & 2) & _as(last, row & 1)
    return found


def _as(words: Words, bit: int) -> Words:
    return words if bit else ~words


_INSTRUCTIONS: dict[str, Callable[..., Words]] = {
    "dp4a.u32.s32": _dp4a(np.uint8),
    "dp4a.s32.s32": _dp4a(np.int8),
    "dp2a.lo.s32.u32": _dp2a(0),
    "dp2a.hi.s32.u32": _dp2a(1),
    "dp2a.lo.s32.s32": _dp2a(0, np.int8),
    "dp2a.hi.s32.s32": _dp2a(1, np.int8),
    "prmt.b32": _prmt,
    "lop3.b32": _lop3,
}
