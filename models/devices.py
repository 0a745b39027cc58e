"""Where a model is computed: the one place that decides, for engines, scores and recipes alike."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import SetupError


def choose_device(wanted: str | None) -> torch.device:
    """The device asked for, else a GPU where there is one. Raises SetupError for one that cannot be used."""
    name = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no data")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SetupError(f"device {name!r} cannot be used ({reason}); try --device cpu") from None
    return device


def multiplies_bf16(device: torch.device) -> bool:
    """Whether products of bf16 are worth it: on a GPU, and on a CPU with AVX-512. With AVX2 alone torch has no kernels
    of them, and the backward pass of a large head took 65 times as long as in fp32.
    """
    return device.type != "cpu" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")


@contextmanager
def memory_named(what: str, way_out: str) -> Iterator[None]:
    """Turns a device's running out of memory into a SetupError that names what ran, and the way out."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        told = str(error).split(". ")[0]
        raise SetupError(f"{what}: the device has too little memory ({told}); {way_out}") from None
