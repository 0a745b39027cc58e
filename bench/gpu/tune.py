"""The constants of the GPU at hand for the cost model (kernels/device_cost.py), measured as section 2 measures."""

from collections.abc import Callable, Iterator

import torch

from ...kernels.device_cost import Device
from ...models.errors import SetupError
from .constants import bandwidths, launches, products
from .dots import dots
from .rows import Row
from .sizes import GPU

_SIZE = 8192  # of square matrices
_WARP = 32  # threads
Say = Callable[[str], None]


def measured_device(say: Say) -> Device:
    """Takes a few seconds. Raises SetupError where there is no GPU."""
    if not torch.cuda.is_available():
        raise SetupError(
            "moesaic tune measures a GPU, and torch finds none on this machine; run it where there is one, until then "
            "the constants of data sheets are used"
        )
    with torch.inference_mode():
        found = {name: _told(name, call, say) for name, call in _measurements()}
    return Device(
        torch.cuda.get_device_name(), "moesaic tune", True,
        bandwidth=found["read"]["gigabytes_per_second"] * 1e9,
        launch=found["launch"]["microseconds_in_a_graph"] * 1e-6,
        issue=found["dp4a"]["dots_per_second"] / _WARP,
        int8=found["product int8"]["teraflops"] * 1e12,
        bf16=found["product bf16"]["teraflops"] * 1e12,
    )  # fmt: skip


def _measurements() -> Iterator[tuple[str, Callable[[], Row]]]:
    """What the constants are made of, by name."""
    wanted = ("read", "product int8", "product bf16", "dp4a")
    yield "launch", launches
    for name, call in (*bandwidths(GPU), *products(_SIZE), *dots()):
        if name in wanted:
            yield name, call


def _told(name: str, call: Callable[[], Row], say: Say) -> Row:
    say(f"measuring: {name}")
    return call()
