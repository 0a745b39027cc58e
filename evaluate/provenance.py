"""Where figures come from: device, versions, commit and command, to stand beside them."""

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ..models.version import VERSION

_CLI = "moesaic.cli.main"
PACKAGES = ("torch", "triton", "transformers", "grpcio", "tokenizers")


def provenance() -> dict[str, object]:
    """Plain values. commit: None where the package does not lie in a git checkout."""
    return {
        "device": device_name(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {"moesaic": VERSION} | {name: found for name in PACKAGES if (found := _version(name))},
        "commit": _commit(),
    }


def command_line(out: Path | None = None) -> str:
    """As this process was started: `python -m MODULE ...`, or `moesaic ...`; of the path `out` the name alone."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec else ""
    started = ["moesaic"] if module in ("", _CLI) else ["python", "-m", module]
    return shlex.join([*started, *(out.name if out and word == str(out) else word for word in sys.argv[1:])])


def device_name() -> str:
    """The GPU, else the processor with the widest instructions that it has: those of one name differ in them."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


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
