"""Where training runs: device, precision, workers, and how freed memory is treated."""

import ctypes
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...evaluate.provenance import device_name
from ...models.errors import SetupError
from ...models.threads import choose_threads

_BIG_MODEL_BYTES = 1 << 40  # the count of processors, whatever the size
_FASTER = 1.2  # bf16 rounds: it must be clearly faster


@dataclass(frozen=True, slots=True)
class Place:
    """`num_workers` threads each take a share of every batch; the count is part of the result's last bits."""

    device: torch.device
    dtype: torch.dtype
    num_workers: int
    compiled: bool = False

    @property
    def name(self) -> str:
        """The device as a report names it."""
        if self.device.type == "cuda":
            return device_name()
        known = "a CPU" if torch.cuda.is_available() else device_name()
        return f"{self.num_workers} threads of {known}"


def choose_place(device: str | None, precision: str, threads: int | None, batch: int, compiled: bool = False) -> Place:
    """CUDA where there is one. On a CPU a worker a processor, each with one thread of its own: they meet once a
    step, where torch's threads meet in every operation, which costs much on shared processors."""
    if device not in (None, "cpu", "cuda"):
        raise SetupError(f"device is {device!r}, it must be cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise SetupError("device is 'cuda', but torch sees no GPU here; leave --device out to train on the CPU")
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if compiled and where.type != "cuda":
        raise SetupError("--compile is for CUDA; leave it out on a CPU")
    workers = 1 if where.type == "cuda" else min(choose_threads(threads, _BIG_MODEL_BYTES), batch)
    return Place(where, choose_dtype(precision, where), workers, compiled)


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What multiplications are done in; `auto` takes bf16 on CUDA and where this CPU is clearly faster with it."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16
    wide, low = (_multiply_seconds(torch.zeros(512, 512, dtype=d)) for d in (torch.float32, torch.bfloat16))
    return torch.bfloat16 if low * _FASTER < wide else torch.float32


def _multiply_seconds(matrix: Tensor, rounds: int = 8) -> float:
    best = float("inf")
    for _ in range(rounds):
        begin = time.perf_counter()
        torch.mm(matrix, matrix)
        best = min(best, time.perf_counter() - begin)
    return best


def keep_freed_memory() -> None:
    """Has glibc keep what is freed. By default it returns large blocks to the system, and every step then waits
    for the same pages to be zeroed again: keeping them makes a step on a CPU up to 1.7 times as fast."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in ((-3, 32 << 20), (-3, 1 << 30), (-1, (1 << 31) - 1), (-2, 64 << 20), (-8, 1)):
            # M_MMAP_THRESHOLD (older ones take 32 MB at most), M_TRIM_THRESHOLD, M_TOP_PAD, M_ARENA_MAX
            mallopt(option, value)


def free_memory(device: torch.device) -> int:
    """Bytes that a new program could take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info()[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
