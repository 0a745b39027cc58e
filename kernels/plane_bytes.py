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


def plane_ffn_bytes(shape: FFNShape, bits: int, active: float, fine: float) -> float:
    """Bytes that a lone token reads where `active` neurons are computed and `fine` of them from all bits.

    Of all neurons the high planes of gate and up, their scales, biases and fit; the low planes of the fine and the
    rows of down of the active; scales and bias of the output. Rows that do not fill their lines of 64 bytes read up to
    a line more, which belongs to a layout and is not counted.
    """
    planes = shape.hidden * shape.scored * (shape.width * bits + fine * (8 - bits)) / 8
    fit = FITTED_BYTES * fitted_vectors(shape.scored) * shape.width
    return planes + shape.hidden * active + _vector_bytes(shape) + fit


def int8_ffn_bytes(shape: FFNShape) -> int:
    """Bytes of weights, scales and biases of the whole FFN in plain int8."""
    return shape.hidden * shape.width * (1 + shape.scored) + _vector_bytes(shape)


def constant_bytes(hidden: int) -> int:
    """Of what stands in for neurons that are left out, fp32 [hidden]."""
    return 4 * hidden


def _vector_bytes(shape: FFNShape) -> int:
    """Scales and biases."""
    scored, output = 4 + 4 * shape.biased, 4 + 4 * shape.output_biased
    return scored * shape.scored * shape.width + output * shape.hidden
