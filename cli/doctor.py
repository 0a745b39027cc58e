"""`moesaic doctor`: what this machine offers, and what would make moesaic faster here."""

import argparse
import platform
import socket
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..models.version import VERSION

PACKAGES = (
    "torch",
    "triton",
    "bitsandbytes",
    "grpcio",
    "protobuf",
    "tokenizers",
    "huggingface_hub",
    "safetensors",
    "numpy",
    "rich",
)

EXAMPLES = """examples:
  moesaic doctor"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor", help="check this machine and installation", epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """One line a check; status 1 if something that is needed is missing."""
    sound = True
    for state, what in _checks():
        print(f"{state:>8}  {what}")
        sound = sound and state != "missing"
    return 0 if sound else 1


def _checks() -> Iterator[tuple[str, str]]:
    """("ok" | "note" | "missing", what was seen and, where it helps, what to do)."""
    yield "ok", f"moesaic {VERSION}, Python {platform.python_version()}, {platform.platform()}"
    yield from (_package(name) for name in PACKAGES)
    yield from _devices()
    yield _native()
    yield _room()
    yield from _models()
    yield _port()


def _package(name: str) -> tuple[str, str]:
    try:
        return "ok", f"{name} {version(name)}"
    except PackageNotFoundError:
        optional = name in ("triton", "bitsandbytes")
        why = "needed on a GPU only" if optional else "needed; install moesaic again"
        return "note" if optional else "missing", f"{name} is not installed: {why}"


def _devices() -> Iterator[tuple[str, str]]:
    import os

    import torch

    if not torch.cuda.is_available():
        yield "note", "no CUDA device: models run on the CPU"
    for i in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(i)
        yield "ok", f"cuda:{i} {found.name}, {found.total_memory >> 20:,} MiB, sm_{found.major}{found.minor}"
    yield "ok", f"{os.cpu_count()} processors, {torch.get_num_threads()} torch threads"


def _native() -> tuple[str, str]:
    from ..kernels.native import native_status

    status = native_status()
    if status.available:
        origin = f"built by {status.compiler}" if status.compiler else "of the wheel"
        return "ok", f"native CPU kernels: {status.isa}, {origin}, {status.path}"
    return "note", f"native CPU kernels are off ({status.reason}); int8 runs on torch, slower; install g++ or clang++"


def _room() -> tuple[str, str]:
    from ..engine.build import FREE_PART
    from ..models.host_memory import memory_bytes

    most = memory_bytes() * FREE_PART / 1e6
    return "ok", f"keys and values of a model on the CPU may take {most:,.0f} MB, or what --kv-memory says"


def _models() -> Iterator[tuple[str, str]]:
    from ..kernels.cache import cache_folder
    from ..models.locate import short_names

    yield "ok", f"models at hand: {', '.join(short_names())}; cache {cache_folder()}"


def _port(port: int = 50051) -> tuple[str, str]:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return "note", f"port {port}, the default of `moesaic serve`, is in use; choose another with --port"
    return "ok", f"port {port}, the default of `moesaic serve`, is free"
