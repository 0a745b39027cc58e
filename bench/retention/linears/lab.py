"""A model whose every linear is computed by a form: text scored, bytes counted, beside the same model in int8."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ....compress.moefy.sensitivity import GROUPS, HEADS, sensitivities
from ....models.checkpoint import Checkpoint, load_transformer
from ....models.context import CausalContext
from ....models.progress import Progress
from ....models.transformer import Layer
from .matrices import AXES, FFN, LINEARS, LINEARS_AXIS, Form, Matrix, Place, place_
from .neurons import FFNAlone
from .whole_ffn import FFNPlace, NeuronsAtPrice

_WINDOWS, _HEAD_TOKENS = 8, 256  # that are computed together
KEPT_TOKENS = 2048  # of the calibration text, that every matrix keeps its inputs of
FISHER_TOKENS = 1024
_Whole = NeuronsAtPrice | FFNAlone  # that compute FFNs as a whole


@dataclass(frozen=True, slots=True)
class Point:
    """A method at a share, on the evaluation text, by window: nats, correct, tokens; kl and agreed: beside int8.

    parts: the share of the int8 bytes of each kind of matrix that was read; bytes_share: of those of the axis;
    whole_share: of those of linears and head.
    """

    method: str
    group: str
    share: float
    bytes_share: float
    whole_share: float
    nats: list[float]
    correct: list[int]
    tokens: list[int]
    kl: list[float] = field(default_factory=list)
    agreed: list[int] = field(default_factory=list)
    parts: dict[str, float] = field(default_factory=dict)
    reason: str = ""  # why there is no figure

    def to_json(self) -> dict[str, object]:
        return asdict(self)


class Method(Protocol):
    """A way to spend a share of the bytes of a model's matrices."""

    name: str
    group: str

    @property
    def calibrates(self) -> bool:
        """Whether a form is made of what the matrix is given on the calibration text, by the forms before it."""
        ...

    def learn(self, matrices: Sequence[Matrix], progress: Progress) -> None:
        """Learns what does not depend on the share; matrices: those of all layers, then the head's."""
        ...

    def aim(self, axis: str, share: float) -> None:
        """Sets it to read this share of the axis's bytes. Raises NotHere where it cannot."""
        ...

    def form(self, matrix: Matrix, x: Tensor, stream: Tensor) -> Form:
        """The form of a matrix. x: what it is given on the calibration text, or on other text, if it does not ask."""
        ...


class Lab:
    """A model, its calibration windows and its evaluation windows [sequences, length], which must not meet."""

    def __init__(
        self, checkpoint: Checkpoint, calibration: Tensor, evaluation: Tensor, seed: int, progress: Progress
    ) -> None:
        self._model = load_transformer(checkpoint, torch.device("cpu"))
        self._calibration, self._evaluation, self._progress = calibration, evaluation, progress
        used = calibration[: max(1, FISHER_TOKENS // calibration.shape[1])]
        felt = sensitivities(self._model, used, seed, lambda n, of: progress("sensitivity", n, of))
        self._layers, self._head = place_(self._model)
        self._places = [place for layer in self._layers for place in layer]
        self.matrices = [place.matrix for place in (*self._places, self._head)]
        self._ffns: list[FFNPlace] = []  # of the layers, where a method computes those whole
        self._dense: list[Tensor] = []  # the states that int8 gives the head, by batch
        for matrix in self.matrices:
            matrix.fisher = torch.cat([felt[path] for path in _paths(matrix, felt)])
        self._keep_inputs()

    def dense(self) -> Point:
        """The int8 model."""
        return self._score("dense int8", "dense", LINEARS_AXIS, 1.0, None)

    def point(self, method: Method, axis: str, share: float) -> Point:
        """A method, which has learned, at a share of an axis's bytes. Raises NotHere where it has none."""
        if isinstance(method, NeuronsAtPrice):
            method.dense = [layer.ffn for layer in self._model_layers]
        method.aim(axis, share)
        return self._score(method.name, method.group, axis, share, method)

    def _keep_inputs(self) -> None:
        windows = self._calibration
        some = windows[: max(1, KEPT_TOKENS // windows.shape[1])]
        for place in (*self._places, self._head):
            place.seen = _Keeper(place.matrix)
        for _ in self._states([some]):
            pass
        for place in (*self._places, self._head):
            place.seen = None

    @torch.inference_mode()
    def _score(self, name: str, group: str, axis: str, share: float, method: Method | None) -> Point:
        for place in (*self._places, self._head):
            place.set(None if method is None else method.form)
        calibrates = method is not None and method.calibrates
        batches = list(torch.split(self._evaluation, _WINDOWS))
        first = [self._calibration] if calibrates else []
        found: list[tuple[float, int, int, float, int]] = []
        whole = method if isinstance(method, _Whole) else None
        states = list(self._states([*first, *batches], name, whole))[len(first) :]
        if method is None:
            self._dense = states
        for ids, x, dense in zip(batches, states, self._dense, strict=True):
            found += [self._window(*each) for each in zip(ids, x, dense, strict=True)]
        parts = self._parts(len(self._calibration.flatten()) if calibrates else 0)
        nats, correct, tokens, kl, agreed = (list(each) for each in zip(*found, strict=True))
        shares = (self._share(AXES[axis], parts), self._share(tuple(parts), parts))
        return Point(name, group, share, *shares, nats, correct, tokens, kl, agreed, parts)

    def _share(self, kinds: Sequence[str], parts: dict[str, float]) -> float:
        """The share of the bytes of some kinds of matrices, from that of each."""
        sizes = {kind: self._size(kind) for kind in kinds}
        return sum(parts[kind] * size for kind, size in sizes.items()) / sum(sizes.values())

    def _size(self, kind: str) -> int:
        return sum(m.whole_bytes for m in self.matrices if m.kind == kind)

    @property
    def _model_layers(self) -> list[Layer]:
        return [layer for layer in self._model.layers if isinstance(layer, Layer)]

    def _parts(self, skipped: int) -> dict[str, float]:
        """By kind, the share of the bytes read, but for the first so many tokens, which were not evaluation's."""
        read: dict[str, list[tuple[float, float]]] = {}
        whole = sum(map(self._size, FFN)) / len(self._layers)
        for place in (*self._places, self._head):
            if place.matrix.kind in FFN and self._ffns:
                spent = torch.cat(self._ffns[place.matrix.layer].read)
                read.setdefault(place.matrix.kind, []).append((float(spent.mean()), whole))
                continue
            spent = torch.cat(place.read)[0 if place is self._head else skipped :]
            read.setdefault(place.matrix.kind, []).append((float(spent.mean()), place.matrix.whole_bytes))
            place.set(None)
        self._ffns = []
        return {kind: sum(r for r, _ in each) / sum(w for _, w in each) for kind, each in read.items()}

    @torch.inference_mode()
    def _states(
        self, batches: Sequence[Tensor], what: str = "calibration text", whole: _Whole | None = None
    ) -> Iterator[Tensor]:
        """What the head is given, [windows, length, hidden] of each batch: layer by layer, all batches at once."""
        embedded = [self._model.embed(batch) for batch in batches]
        states, turns = [x.float() for x, _ in embedded], [turn for _, turn in embedded]
        for i, (layer, places) in enumerate(zip(self._model_layers, self._layers, strict=True)):
            ffn = layer.ffn if whole is None else whole.ffn(i, layer.ffn)
            if isinstance(ffn, FFNPlace):
                self._ffns.append(ffn)
            for n, turn in enumerate(turns):
                _tell(places.attention, states[n])
                given, state = layer.attend(states[n], turn, CausalContext())
                _tell(places.ffn, state)
                states[n] = layer.joined(state, ffn(given))
            for place in places:
                place.form = None  # what it holds is as large as the matrix
            self._progress(what, i + 1, len(self._layers))
        for x in states:
            _tell([self._head], x)
            normed = self._model.norm(x)
            if self._head.seen is not None:
                self._head.seen(normed.flatten(0, 1), self._head.stream)
            yield normed

    def _window(self, ids: Tensor, x: Tensor, dense: Tensor) -> tuple[float, int, int, float, int]:
        """nats, correct, tokens, KL in nats from int8, and where both would say the same, of one window."""
        nats, correct, kl, agreed = 0.0, 0, 0.0, 0
        given = (torch.split(each, _HEAD_TOKENS) for each in (x[:-1], dense[:-1], ids[1:]))
        for part, base, wanted in zip(*given, strict=True):
            ours = torch.log_softmax(self._head(part), -1)
            theirs = torch.log_softmax(self._head.matrix.product(base, self._head.matrix.levels), -1)
            best = ours.argmax(-1)
            nats -= float(ours.gather(1, wanted[:, None]).sum(dtype=torch.float64))
            correct += int((best == wanted).sum())
            agreed += int((best == theirs.argmax(-1)).sum())
            kl += float((theirs.exp() * (theirs - ours)).sum(dtype=torch.float64))
        return nats, correct, len(ids) - 1, kl, agreed


def _paths(matrix: Matrix, there: Collection[str]) -> list[str]:
    """Of the linears that a matrix stacks."""
    groups = dict(zip(LINEARS, GROUPS.values(), strict=True))
    names = [f"layers.{matrix.layer}.{name}" for name in groups[matrix.kind]] if matrix.kind in groups else HEADS
    return [name for name in names if name in there]


class _Keeper:
    """Keeps what a matrix is given."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix

    def __call__(self, x: Tensor, stream: Tensor) -> None:
        self._matrix.inputs, self._matrix.stream = x.bfloat16(), stream


def _tell(places: Sequence[Place], x: Tensor) -> None:
    """Notes the rms of the stream beside each token of a batch."""
    rms = x.flatten(0, 1).square().mean(-1).sqrt()
    for place in places:
        place.stream = rms
