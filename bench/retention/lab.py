"""One model under any method: every FFN in its place computed by it, text scored, bytes counted."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ...compress.moefy.importance import neuron_importance
from ...kernels.planes.bytes import constant_bytes
from ...models.checkpoint import Checkpoint, load_transformer
from ...models.context import CausalContext
from ...models.progress import Progress
from ...models.transformer import Attention, Layer, Transformer
from .attention import AttentionCut, WithAttention
from .layer import LabLayer, mean_output
from .method import CalibrationData, Form, Method

_WINDOWS = 8  # that are computed together
_HEAD_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Point:
    """A method at a share, on the evaluation text. nats, correct, tokens: of each window."""

    method: str
    group: str
    share: float
    bytes_share: float
    neurons_share: float
    nats: list[float]
    correct: list[int]
    tokens: list[int]
    reason: str = ""  # why there is no figure

    def to_json(self) -> dict[str, object]:
        return asdict(self)


class Lab:
    """A model, its calibration windows and its evaluation windows [sequences, length], which must not meet."""

    def __init__(
        self, checkpoint: Checkpoint, calibration: Tensor, evaluation: Tensor, seed: int, progress: Progress
    ) -> None:
        self._model = load_transformer(checkpoint, torch.device("cpu"))
        self._calibration, self._evaluation = calibration, evaluation
        self._progress = progress
        layers = [LabLayer.of(layer.ffn) for layer in self._layers]
        importance = neuron_importance(
            self._model, calibration, seed, lambda n, of: progress("importance of neurons", n, of)
        )
        attention = [_int8_bytes(layer.attention) for layer in self._layers]
        self.material = CalibrationData(layers, [], importance, attention, seed)
        self._cut = AttentionCut([layer.attention for layer in self._layers])
        self._walk("what the dense model gives", None, 1.0, self.material.given)

    def dense(self) -> Point:
        """The int8 model with all of its FFNs."""
        return self._walk("dense int8", None, 1.0)

    def point(self, method: Method, share: float) -> Point:
        """The method, which has learned, at a share. Raises NotHere where it has none."""
        what = f"{method.name} at {share:.2f}"
        if not isinstance(method, WithAttention):
            return self._walk(what, method, share)
        if not self._cut.recorded:
            with self._cut.recording():
                self._walk("what attention is given", None, 1.0)
        method.cut = self._cut
        with self._cut.keeping(method.kept):
            return self._walk(what, method, share)

    @property
    def _layers(self) -> list[Layer]:
        return [layer for layer in self._model.layers if isinstance(layer, Layer)]

    @torch.inference_mode()
    def _walk(self, what: str, method: Method | None, share: float, record: list[Tensor] | None = None) -> Point:
        """Walks all windows layer by layer, so that each layer is set on what the layers before it give.

        record: takes what each layer is given on the calibration text.
        """
        batches = [*torch.split(self._calibration, _WINDOWS), *torch.split(self._evaluation, _WINDOWS)]
        first = -(-len(self._calibration) // _WINDOWS)  # of the evaluation's batches
        embedded = [self._model.embed(batch) for batch in batches]
        states, turns = [x for x, _ in embedded], [turn for _, turn in embedded]
        spent: list[tuple[float, float]] = []
        for i, layer in enumerate(self._layers):
            attended = [layer.attend(x, turn, CausalContext()) for x, turn in zip(states, turns, strict=True)]
            given, states = [each for each, _ in attended], [x for _, x in attended]
            seen = torch.cat([x.flatten(0, 1) for x in given[:first]])
            if record is not None:
                record.append(seen)
            form = None if method is None else self._form(method, i, seen, share)
            for n, x in enumerate(given):
                y, used = self._computed(form, i, x)
                states[n] = layer.joined(states[n], y)
                if n >= first:
                    spent.append((len(x) * used[0], len(x) * used[1]))
            self._progress(what, i + 1, len(self._layers))
        scored = list(self._scored(batches[first:], states[first:]))
        windows = len(self._evaluation) * len(self._layers)
        read, computed = (sum(part) / windows for part in zip(*spent, strict=True))
        name, group = (method.name, method.group) if method else ("dense int8", "dense")
        nats, correct, tokens = (list(part) for part in zip(*scored, strict=True))
        return Point(name, group, share, read, computed, nats, correct, tokens)

    def _form(self, method: Method, index: int, seen: Tensor, share: float) -> tuple[Form, Tensor | None]:
        form = method.form(index, seen, share)
        if not method.compensate:
            return form, None
        outputs = torch.cat([form(part).y for part in torch.split(seen, 2048)])
        return form, mean_output(self.material.layers[index], seen, outputs)

    def _computed(
        self, form: tuple[Form, Tensor | None] | None, index: int, x: Tensor
    ) -> tuple[Tensor, tuple[float, float]]:
        flat = x.flatten(0, 1)
        if form is None:
            return self.material.layers[index].dense(flat).view(x.shape), (1.0, 1.0)
        used = form[0](flat)
        y, read = used.y, float(used.bytes.mean())
        if form[1] is not None:
            y, read = y + form[1], read + constant_bytes(len(form[1])) / self.material.layers[index].whole_bytes
        return y.view(x.shape), (read, float(used.neurons.mean()))

    def _scored(self, batches: Sequence[Tensor], states: Sequence[Tensor]) -> Iterator[tuple[float, int, int]]:
        for ids, x in zip(batches, states, strict=True):
            for row, hidden in zip(ids, self._model.norm(x), strict=True):
                yield _window_score(self._model, hidden[:-1], row[1:])


def _int8_bytes(attention: Attention) -> int:
    linears = (attention.query, attention.key, attention.value, attention.output)
    weights = [each.weight for each in linears if isinstance(each.weight, Tensor)]
    return sum(weight.numel() + 4 * len(weight) for weight in weights)


def _window_score(model: Transformer, hidden: Tensor, labels: Tensor) -> tuple[float, int, int]:
    nats, correct = 0.0, 0
    for part, wanted in zip(torch.split(hidden, _HEAD_TOKENS), torch.split(labels, _HEAD_TOKENS), strict=True):
        logs = torch.log_softmax(model.head(part).float(), -1)
        nats -= float(logs.gather(1, wanted[:, None]).sum(dtype=torch.float64))
        correct += int((logs.argmax(-1) == wanted).sum())
    return nats, correct, len(labels)
