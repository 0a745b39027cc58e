"""A model with an encoder under any method: the FFNs of its encoder, and of its decoder where it has one, computed by
it, and what its vectors or answers are then worth.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ....compress.calibration import Calibration
from ....compress.moefy.importance import neuron_importance
from ....compress.walk import walk
from ....compress.windows import Windows
from ....evaluate.embeddings import Retrieval, Vectors, score_vectors, vectors_of
from ....evaluate.pairs import Pair, score_pairs
from ....kernels.planes.bytes import constant_bytes
from ....models.checkpoint import Checkpoint, load_transformer
from ....models.compute import Compute
from ....models.ffn.dense import FFN
from ....models.linear import TensorModule
from ....models.progress import Progress
from ....models.transformer import Layer, Transformer
from ..layer import LabLayer, mean_output
from ..method import CalibrationData, Form, Method, NotHere

Columns = Mapping[str, list[float]]  # a figure of each query, text or answer, by name
_PART_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class EncoderPoint:
    """A method at a share. bytes_share, neurons_share: of a side, the mean over its tokens and layers; then the mean of
    the sides. columns: figures of each item.
    """

    method: str
    group: str
    share: float
    bytes_share: float
    neurons_share: float
    columns: Columns
    reason: str = ""  # why there is no figure

    def to_json(self) -> dict[str, object]:
        return asdict(self)


class FormFFN(TensorModule):
    """What stands in an FFN's place: a method's form of it, all of it in int8 without one. Counts what is read."""

    def __init__(self, layer: LabLayer, form: Form | None = None, constant: Tensor | None = None) -> None:
        super().__init__()
        self._layer, self._form, self._constant = layer, form, constant
        self.tokens, self.read, self.neurons = 0, 0.0, 0.0

    def forward(self, x: Tensor, compute: Compute | None = None) -> Tensor:
        flat = x.flatten(0, -2)
        if self._form is None:
            return self._layer.dense(flat).view(x.shape)
        used = self._form(flat)
        self.tokens += len(flat)
        self.read += float(used.bytes.sum())
        self.neurons += float(used.neurons.sum())
        y = used.y
        if self._constant is not None:
            y = y + self._constant
            self.read += len(flat) * constant_bytes(len(self._constant)) / self._layer.whole_bytes
        return y.view(x.shape)


class Side:
    """The encoder or the decoder: its layers, and what a method may learn of them. Those of the two are ranked apart,
    since what a unit of error costs is known of each in a unit of its own.
    """

    def __init__(self, model: Transformer, windows: Windows, seed: int, progress: Progress) -> None:
        self.windows, self._model = windows, model
        self._layers = [layer for layer in model.layers if isinstance(layer, Layer)]
        lab = [LabLayer.of(layer.ffn) for layer in self._layers]
        importance = neuron_importance(model, windows, seed, lambda n, of: progress("importance of neurons", n, of))
        self.material = CalibrationData(lab, [], importance, [0] * len(lab), seed)
        self.make_dense()

        def record(index: int, _: FFN, given: Sequence[Tensor]) -> None:
            self.material.given.append(torch.cat([x.flatten(0, -2) for x in given]))

        walk(model, windows, record)

    def make_dense(self) -> None:
        """All FFNs are computed whole, in int8."""
        for layer, own in zip(self._layers, self.material.layers, strict=True):
            layer.ffn = FormFFN(own)  # type: ignore[assignment]

    def put(self, method: Method, share: float) -> list[FormFFN]:
        """The method's forms in the place of all FFNs, each set on what the layers before it give. Raises NotHere."""
        forms = list[FormFFN]()

        def visit(index: int, _: FFN, given: Sequence[Tensor]) -> None:
            layer, seen = self.material.layers[index], torch.cat([x.flatten(0, -2) for x in given])
            form, constant = method.form(index, seen, share), None
            if method.compensate:
                outputs = torch.cat([form(part).y for part in torch.split(seen, _PART_TOKENS)])
                constant = mean_output(layer, seen, outputs)
            self._layers[index].ffn = FormFFN(layer, form, constant)  # type: ignore[assignment]
            forms.append(self._layers[index].ffn)  # type: ignore[arg-type]

        walk(self._model, self.windows, visit)
        for form in forms:
            form.tokens, form.read, form.neurons = 0, 0.0, 0.0
        return forms


@dataclass(frozen=True, slots=True)
class OfVectors:
    """What is scored of an encoder. kind: of pooling; original: the vectors of the model as it came."""

    material: Retrieval
    kind: str
    original: Vectors

    def columns(self, model: Transformer, progress: Progress) -> Columns:
        mine = vectors_of(model, self.material.texts, self.kind, lambda n, of: progress("vectors", n, of))
        score = score_vectors(mine, self.material, self.original)
        return {"reciprocal_rank": score.reciprocal_ranks, "hit": score.hits, "cosine": list(score.cosines)}


@dataclass(frozen=True, slots=True)
class OfAnswers:
    """What is scored of a model that answers: the original's own answers."""

    pairs: Sequence[Pair]
    start: int

    def columns(self, model: Transformer, progress: Progress) -> Columns:
        score = score_pairs(model, self.pairs, self.start, lambda n, of: progress("answers", n, of))
        return {name: score.column(name) for name in ("nats", "correct", "tokens", "exact")}


class EncoderLab:
    """A model, the windows that methods learn from, and what is scored."""

    def __init__(
        self, checkpoint: Checkpoint, calibration: Calibration, scored: OfVectors | OfAnswers, progress: Progress
    ) -> None:
        device, seed = torch.device("cpu"), calibration.settings.seed
        self._model, self._scored, self._progress = load_transformer(checkpoint, device), scored, progress
        answers = calibration.looked_at(device)
        self._sides = list[Side]()
        if self._model.encoder is not None:
            self._sides.append(Side(self._model.encoder, calibration.windows, seed, progress))
        self._sides.append(Side(self._model, answers, seed, progress))

    def dense(self, name: str) -> EncoderPoint:
        """With all FFNs in int8."""
        for side in self._sides:
            side.make_dense()
        return EncoderPoint(name, "dense", 1.0, 1.0, 1.0, self._columns())

    def points(self, method: Method, shares: Sequence[float]) -> Iterator[EncoderPoint]:
        """The method at these shares of the bytes, the same on both sides."""
        learned = list[Method]()
        for side in self._sides:
            learned.append(copy.deepcopy(method))
            learned[-1].learn(side.material, self._progress)
        for share in shares:
            self._progress(f"{method.name} at {share:.2f}", 0, 1)
            try:
                yield self._point(learned, share)
            except NotHere as error:
                yield EncoderPoint(method.name, method.group, share, 0.0, 0.0, {}, str(error))

    @torch.inference_mode()
    def _point(self, learned: Sequence[Method], share: float) -> EncoderPoint:
        for side in self._sides:
            side.make_dense()
        forms = [side.put(method, share) for side, method in zip(self._sides, learned, strict=True)]
        columns = self._columns()
        read, neurons = (
            sum(sum(getattr(f, name) for f in of) / sum(f.tokens for f in of) for of in forms) / len(forms)
            for name in ("read", "neurons")
        )
        return EncoderPoint(learned[0].name, learned[0].group, share, read, neurons, columns)

    def _columns(self) -> Columns:
        return self._scored.columns(self._model, self._progress)
