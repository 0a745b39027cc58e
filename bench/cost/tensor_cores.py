"""What graded inputs would cost on tensor cores: written down only, there is no such kernel.

Four bytes of four inputs, transposed for one output, are a register of the weights of `mma.m16n8k32` on signed and
unsigned bytes: 16 outputs by 32 inputs times 8 rows, four such registers a thread. Planes are multiplied one by one,
with activations of 0 for rows that do not read them, so that no weight is masked by row and nothing is joined. In a
turn of the graded loop (16 outputs of a thread, 4 inputs) by level:

    loads and addresses as now; permutes as now; a mask for each word of four bytes of one output and plane;
    products: 2 digits for each plane of 16 words, four words at a time
"""

from collections.abc import Mapping

from .candidates import NOTHING
from .gpu import loop_of
from .machines import Cost
from .processor import GRADED

_WORDS = 16  # of outputs, in a thread's turn for several rows
_PLANES = {"4": 1, "6": 2, "8": 3}


def on_tensor_cores(pieces: Mapping[str, float]) -> Cost:
    """For each weight, at up to 8 rows. pieces: of their union, by bits."""
    return sum((_of(bits).times(share) for bits, share in pieces.items()), NOTHING)


def _of(bits: str) -> Cost:
    parts, planes = loop_of(f"{GRADED}, {bits} bits", 4).parts, _PLANES[bits]
    weights, products = loop_of(f"{GRADED}, {bits} bits", 4).weights, 2 * planes * _WORDS // 4
    integers = parts["permute"] + planes * _WORDS
    return Cost((integers + products + parts["loads"] + parts["addresses"]) / weights, integers / weights)
