"""Three kinds of machine: how fast they read memory and issue instructions, as measured or as others say.

A step takes the longest of what its bytes and its instructions take: a roofline. Nothing else is modelled: no calls,
no launches, no waiting, no caches.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ...evaluate.provenance import provenance
from ..clock import seconds_of
from ..machine import read_bandwidth
from .compiled import rivals_library
from .gpu import LANES
from .processor import NARROW, TIMED, WIDE, loop_of

DP4A = "dp4a"
_CORES, _CORE_CLOCK, _CORE_RATE = 16, 3.0e9, 2.0  # a server's processor: its clock and instructions a clock, assumed
_MULTIPROCESSORS, _SCHEDULERS = 132, 4
_H100_CLOCK = 989.4e12 / (132 * 4 * 512 * 2)  # at which the published bf16 peak is reached: 1.83 GHz
_INTEGER_SHARE = 0.5  # 64 results a clock of 128: the arithmetic table of NVIDIA's programming guide, for 9.0
_QUADS, _TIMES, _ROUNDS = 64, 2000, 40  # 16 KB of weights, rounds of less than a millisecond


@dataclass(frozen=True)
class Cost:
    """For each weight of a model: instructions, and those of them that integer units do."""

    instructions: float
    integers: float

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.instructions + other.instructions, self.integers + other.integers)

    def times(self, factor: float) -> "Cost":
        return Cost(self.instructions * factor, self.integers * factor)


@dataclass(frozen=True)
class Machine:
    """instructions: a second, by instruction set (of a GPU those of a thread); integer_share: of them, the most that
    integer units take. measured: whether both rates were, here; else origin says whose they are.
    """

    name: str
    bytes: float
    instructions: dict[str, float]
    measured: bool
    origin: str
    integer_share: float = 1.0


@dataclass(frozen=True)
class Time:
    """Of a billion weights. bound: "bytes" or "instructions"."""

    milliseconds: float
    bound: str


def time_of(machine: Machine, isa: str, share: float, cost: Cost) -> Time:
    """share: bytes read for each weight; cost: instructions for each weight."""
    rate = machine.instructions[isa]
    by_bytes = share / machine.bytes
    by_instructions = max(cost.instructions / rate, cost.integers / (rate * machine.integer_share))
    bound = "bytes" if by_bytes >= by_instructions else "instructions"
    return Time(max(by_bytes, by_instructions) * 1e12, bound)


def server() -> Machine:
    rate = _CORES * _CORE_CLOCK * _CORE_RATE
    return Machine(
        "16 cores at 80 GB/s", 80e9, {WIDE: rate, NARROW: rate}, False,
        f"assumed: {_CORE_CLOCK / 1e9:g} GHz and {_CORE_RATE:g} instructions a clock on each core",
    )  # fmt: skip


def h100() -> Machine:
    rate = _MULTIPROCESSORS * _SCHEDULERS * _H100_CLOCK * LANES
    return Machine(
        "an H100", 3.0e12, {DP4A: rate}, False,
        "a model, run by nobody: bytes of copies as others measured them (the data sheet has 3.35 TB/s), "
        f"{_MULTIPROCESSORS} multiprocessors of {_SCHEDULERS} schedulers at {_H100_CLOCK / 1e9:.2f} GHz, "
        "integer units at half of that",
        _INTEGER_SHARE,
    )  # fmt: skip


@dataclass
class _Operands:
    """Weights that stay in the first cache, for the loop that is timed."""

    weights: Tensor = field(default_factory=lambda: torch.ones(_QUADS * 256, dtype=torch.uint8))
    digits: Tensor = field(default_factory=lambda: torch.ones(2 * _QUADS, dtype=torch.int32))
    sums: Tensor = field(default_factory=lambda: torch.zeros(256, dtype=torch.int32))

    def run(self, library: ctypes.CDLL, isa: str) -> None:
        weights, digits, sums = (ctypes.c_void_p(each.data_ptr()) for each in (self.weights, self.digits, self.sums))
        quads, times = ctypes.c_int64(_QUADS), ctypes.c_int64(_TIMES)
        library.moesaic_cost_run(int(isa == WIDE), weights, digits, quads, times, sums)


def this_machine(isas: Sequence[str]) -> Machine:
    """isas: those that this processor has. Best of many short rounds, with one thread and with one a processor, as the
    processors of a virtual machine may share a core.
    """
    library, facts = ctypes.CDLL(str(rivals_library())), provenance()
    counts = (1, os.cpu_count() or 1)
    rates = {isa: max(_instruction_rate(library, isa, threads) for threads in counts) for isa in isas}
    return Machine(
        f"{facts['processors']} cores of an {facts['device']}", read_bandwidth(), rates, True,
        "plain reads, and instructions of a loop over weights in the first cache, best of some rounds",
    )  # fmt: skip


def _instruction_rate(library: ctypes.CDLL, isa: str, threads: int) -> float:
    operands = [_Operands() for _ in range(threads)]
    work = [partial(each.run, library, isa) for each in operands]
    together = min(seconds_of(partial(_on_threads, work)) for _ in range(_ROUNDS))
    return threads * _TIMES * _QUADS * loop_of(TIMED, isa).total / together


def _on_threads(work: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=each) for each in work[1:]]
    for each in threads:
        each.start()
    work[0]()
    for each in threads:
        each.join()
