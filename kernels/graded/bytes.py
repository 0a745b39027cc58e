"""What a graded linear is, in bytes that a lone token reads. No torch, so that planning may import it."""

from collections.abc import Sequence
from dataclasses import dataclass

PLANES = (4, 2, 2)  # widths in bits, from the high end
WHOLE_BITS = 8
WIDTHS = (1, 2, 4)
MAX_INPUTS = 65536  # above it a sum of one digit may leave int32


@dataclass(frozen=True, slots=True)
class GradedShape:
    """Inputs, outputs, whether there is a bias, and the widths of the planes."""

    inputs: int
    outputs: int
    biased: bool = False
    planes: tuple[int, ...] = PLANES


def graded_linear_bytes(shape: GradedShape, bits: float) -> float:
    """Bytes that a lone token reads where it reads so many `bits` over all inputs (`GradedResult.bits`).

    The bits of every output, scales and biases, and the worth of every level. Planes that do not fill
    their lines of 64 bytes read up to a line more an input, which belongs to a layout and is not counted.
    """
    return bits / 8 * shape.outputs + _vector_bytes(shape) + 4 * len(shape.planes)


def int8_linear_bytes(shape: GradedShape) -> int:
    """Bytes of weights, scales and biases in plain int8."""
    return shape.inputs * shape.outputs + _vector_bytes(shape)


def level_bits(planes: Sequence[int]) -> tuple[int, ...]:
    """Bits of a weight that each level reads, from level 0, which reads none."""
    return tuple(sum(planes[:level]) for level in range(len(planes) + 1))


def check_planes(planes: Sequence[int]) -> None:
    """Raises ValueError for widths that no layout takes."""
    if sum(planes) != WHOLE_BITS or any(width not in WIDTHS for width in planes):
        raise ValueError(
            f"planes is {tuple(planes)}, it must be widths of 1, 2 or 4 bits that add up to {WHOLE_BITS}, "
            f"such as {PLANES}"
        )


def _vector_bytes(shape: GradedShape) -> int:
    return (4 + 4 * shape.biased) * shape.outputs
