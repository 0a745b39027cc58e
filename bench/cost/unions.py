"""What tokens of different documents read when they run together: the union over rows, measured on text.

Rows of a step share what they read: a column is read as far as the row that wants most of it, a neuron's planes and its
row of down where any row wants them. Rows are tokens at one place of windows of different documents.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from ...evaluate.texts import encode_documents, read_documents
from ...kernels.plane_ffn import PlaneWeights, plane_scores
from ...models.checkpoint import Checkpoint
from ...models.errors import TextError
from ...models.progress import Progress
from ...models.tokenizer import Tokenizer
from ..retention.layer import LabLayer
from ..retention.linears.graded import Graded
from ..retention.linears.matrices import FFN, INT8_BITS, LINEARS, Form, Matrix, Read
from ..retention.linears.thresholds import by_step
from ..retention.method import CalibrationData, Used
from ..retention.planes import Planes

ROWS = (1, 4, 8)
MOST_TOKENS = max(ROWS)  # as many windows as the lab computes together
HIGH, LOW, DOWN, WHOLE = "high planes", "low planes", "rows of down", "whole"  # pieces of neurons by planes


@dataclass(frozen=True)
class Union:
    """What so many rows read together, on average: bytes, of the int8 bytes of all linears; pieces: by name (a number
    of bits, or a part of neurons by planes), the share of the linears' weights that is read so.
    """

    rows: int
    bytes: float
    pieces: dict[str, float]


@dataclass
class Tally:
    """How many weights of all matrices were chosen, on average over all groups of so many rows."""

    length: int = 1  # tokens of a window
    _parts: dict[tuple[int, str, str], tuple[float, int]] = field(default_factory=dict)

    def add(self, place: str, name: str, chosen: Tensor, size: float) -> None:
        """chosen: bool [windows * length, columns] of a place in the model, of `size` weights each; batch by batch."""
        windows = chosen.view(-1, self.length, chosen.shape[-1])
        for rows in ROWS:
            together = windows.view(-1, rows, *windows.shape[1:]).any(1)
            before, groups = self._parts.get((rows, place, name), (0.0, 0))
            found = before + size * float(together.sum(dtype=torch.float64))
            self._parts[rows, place, name] = found, groups + len(together) * self.length

    def read(self, rows: int) -> dict[str, float]:
        """By name, the weights of the whole model that so many rows read, on average."""
        found: dict[str, float] = {}
        for (each, _, name), (weights, groups) in self._parts.items():
            if each == rows:
                found[name] = found.get(name, 0.0) + weights / groups
        return found


@dataclass
class WatchedInputs(Graded):
    """Graded inputs that tell what they read."""

    tally: Tally = field(default_factory=Tally)

    def form(self, matrix: Matrix, x: Tensor, stream: Tensor) -> Form:
        inner = super().form(matrix, x, stream)
        if matrix.kind not in LINEARS:
            return inner
        passes, place = self.passes(matrix), f"{matrix.kind} {matrix.layer}"

        def compute(given: Tensor, beside: Tensor) -> Read:
            level = by_step(self.sizes(matrix, given, beside), passes)
            for step, bits in enumerate(self.levels[1:], start=1):
                self.tally.add(place, str(bits), level >= step, matrix.outputs)
            return inner(given, beside)

        return compute

    def union(self, rows: int, matrices: Sequence[Matrix]) -> Union:
        """What was read since the tally was new."""
        linears = [matrix for matrix in matrices if matrix.kind in LINEARS]
        least, whole = self.tally.read(rows), sum(matrix.levels.numel() for matrix in linears)
        scales = sum(matrix.scale_bytes for matrix in linears)
        steps = [(least[str(bits)], bits - below) for below, bits in pairwise(self.levels)]
        read = sum(weights * bits / INT8_BITS for weights, bits in steps) + scales
        exactly = [here - more for here, more in pairwise([*(weights for weights, _ in steps), 0.0])]
        pieces = {str(bits): each / whole for bits, each in zip(self.levels[1:], exactly, strict=True)}
        return Union(rows, read / (whole + scales), pieces)


@dataclass
class WatchedPlanes(Planes):
    """Neurons by planes that tell what they read, but for calibration text, on which a constant is found."""

    tally: Tally = field(default_factory=Tally)
    _calibration: set[int] = field(default_factory=set)  # where it lies in memory

    def learn(self, material: CalibrationData, progress: Progress) -> None:
        super().learn(material, progress)
        self._calibration = {each.untyped_storage().data_ptr() for each in material.given}

    def _used(self, layer: LabLayer, weights: PlaneWeights, x: Tensor, thresholds: Tensor) -> Used:
        if x.untyped_storage().data_ptr() in self._calibration:
            return super()._used(layer, weights, x, thresholds)
        scores = plane_scores(x, weights, self.bits, layer.weights.activation)
        computed, refined = scores.chosen(thresholds.expand(len(x), 2))
        place = str(next(i for i, each in enumerate(self._layers) if each is layer))
        self.tally.add(place, LOW, refined, layer.hidden_size * layer.shape.scored)
        self.tally.add(place, DOWN, computed, layer.hidden_size)
        return super()._used(layer, weights, x, thresholds)

    def union(self, rows: int, matrices: Sequence[Matrix]) -> Union:
        """What was read since the tally was new, with attention whole."""
        linears = [matrix for matrix in matrices if matrix.kind in LINEARS]
        attention = [matrix for matrix in linears if matrix.kind not in FFN]
        weights, first = sum(matrix.levels.numel() for matrix in linears), self._layers[0]
        read, row = self.tally.read(rows), first.hidden_size * first.shape.scored
        fine = (self._price(first, 0, 1) - self._price(first, 0, 0)) * read[LOW] / row
        spent = sum(self._price(layer, 0, 0) for layer in self._layers) + fine + read[DOWN]
        spent += sum(matrix.whole_bytes for matrix in attention)
        scored = sum(matrix.levels.numel() for matrix in linears if matrix.kind == FFN[0])
        whole = sum(matrix.levels.numel() for matrix in attention)
        pieces = {HIGH: scored, LOW: read[LOW], DOWN: read[DOWN], WHOLE: whole}
        share = spent / sum(matrix.whole_bytes for matrix in linears)
        return Union(rows, share, {name: each / weights for name, each in pieces.items()})


def document_windows(checkpoint: Checkpoint, files: Sequence[str], windows: int, length: int) -> Tensor:
    """The first `length` tokens of so many documents, [windows, length]. Raises TextError where there are fewer."""
    tokenizer = Tokenizer.open(checkpoint.path)
    encoded = encode_documents(read_documents(list(files)), tokenizer, None, checkpoint.spec.vocab_size)
    long = [ids[:length] for ids in encoded if len(ids) >= length]
    if len(long) < windows:
        raise TextError(
            f"the text holds {len(long)} documents of {length} tokens and more, {windows} are wanted; give more text"
        )
    every = len(long) // windows
    return torch.tensor(long[: every * windows : every])
