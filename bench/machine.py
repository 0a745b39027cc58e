"""What the figures were taken on: device, versions, commit, and how fast its memory is read."""

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("moesaic", "torch", "triton", "transformers", "grpcio", "tokenizers")


def machine_facts() -> dict[str, object]:
    """Everything that belongs beside a figure."""
    return {
        "device": device_name(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _commit(),
        "read_bandwidth_gb_per_s": round(read_bandwidth() / 1e9, 1),
    }


def device_name() -> str:
    """The GPU, else the processor."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def read_bandwidth(num_bytes: int = 256 << 20, rounds: int = 5) -> float:
    """Bytes per second at which memory beyond the caches is read, best of some rounds."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = torch.ones(num_bytes // 4, dtype=torch.float32, device=device)
    best = float("inf")
    for _ in range(rounds):
        begin = time.perf_counter()
        data.sum().item()
        best = min(best, time.perf_counter() - begin)
    return num_bytes / best


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    return shown.stdout.strip() or None
