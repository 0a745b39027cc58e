"""What a feed-forward network in int8 is, in bytes read: whole, and by bit planes."""

from dataclasses import dataclass

from .coarse import FITTED_BYTES, fitted_vectors


@dataclass(frozen=True, slots=True)
class FFNShape:
    """Inputs, neurons, whether there is a gate; biased: of up and gate; output_biased: of down."""

    hidden: int
    width: int
    gated: bool
    biased: bool = False
    output_biased: bool = False

    @property
    def scored(self) -> int:
        """Matrices that say what a neuron's value is."""
        return 1 + self.gated


WHOLE_BITS = 8


def plane_ffn_bytes(shape: FFNShape, bits: int, active: float, fine: float, refined_bits: int = WHOLE_BITS) -> float:
    """Bytes that a lone token reads where `fine` neurons are refined and the rows of down of `active` are read.

    bits: those that route; refined_bits: those that a refined neuron is computed from. Of all neurons the high planes
    of gate and up and their fit; of the fine ones the low planes, scales and biases; the rows of the active; scales and
    bias of the output. Rows that do not fill their lines of 64 bytes read up to a line more, which belongs to a layout
    and is not counted.
    """
    high = shape.width * (shape.hidden * shape.scored * bits / 8 + FITTED_BYTES * fitted_vectors(shape.scored))
    low = fine * (shape.hidden * shape.scored * (refined_bits - bits) / 8 + _row_vector_bytes(shape))
    return high + low + shape.hidden * active + _output_vector_bytes(shape)


def int8_ffn_bytes(shape: FFNShape) -> int:
    """Bytes of weights, scales and biases of the whole FFN in plain int8."""
    rows = shape.hidden * (1 + shape.scored) + _row_vector_bytes(shape)
    return shape.width * rows + _output_vector_bytes(shape)


def constant_bytes(hidden: int) -> int:
    """The bytes of what stands in for neurons that are left out, fp32 [hidden]."""
    return 4 * hidden


def _row_vector_bytes(shape: FFNShape) -> int:
    """Scales and biases of one neuron's gate and up."""
    return (4 + 4 * shape.biased) * shape.scored


def _output_vector_bytes(shape: FFNShape) -> int:
    return (4 + 4 * shape.output_biased) * shape.hidden
