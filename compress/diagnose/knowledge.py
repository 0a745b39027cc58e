"""A feed-forward layer read as a key-value memory: which contexts fire a neuron or expert, which tokens it speaks for.

Geva et al. 2021, "Transformer Feed-Forward Layers Are Key-Value Memories": the rows of up (and gate) are keys that
patterns of the text match, the columns of down are values, each a direction in the vocabulary's space.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ...models.checkpoint import Checkpoint
from ...models.devices import choose_device, memory_named
from ...models.errors import SetupError
from ...models.ffn.dense import FFN
from ...models.linear import dense_weight
from ...models.progress import Progress
from ...models.spec import TransformerSpec
from ...models.tokenizer import Tokenizer
from ...models.transformer import Layer, Transformer
from ..material import load_exact
from ..walk import walk
from .diagnosis import WAY_OUT, refuse_mixture
from .passages import Passages
from .spelling import spell, spell_within

BEFORE, AFTER = 16, 4  # tokens of a context that are shown
_PLACE = re.compile(r"([0-9]{1,9}):(e?)([0-9]{1,9})")


@dataclass(frozen=True, slots=True)
class Place:
    """A neuron of a layer, or an expert: written 3:17 and 3:e12, counted from 0, neurons in the order on disk."""

    layer: int
    index: int
    is_expert: bool = False

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Raises SetupError for what is no place."""
        match = _PLACE.fullmatch(text)
        if not match:
            raise SetupError(f"memory: {text!r} is no place; write LAYER:NEURON such as 3:17, or LAYER:eEXPERT, 3:e12")
        return cls(int(match[1]), int(match[3]), bool(match[2]))

    def __str__(self) -> str:
        return f"{self.layer}:{'e' * self.is_expert}{self.index}"

    def columns(self, spec: TransformerSpec) -> range:
        """The neurons of this place. Raises SetupError where the model does not have it, with what it has."""
        if self.layer >= len(spec.layers):
            has = f"this model has layers 0 to {len(spec.layers) - 1}"
            raise SetupError(f"memory {self}: layer is {self.layer}, {has}; name one of them")
        ffn = spec.layers[self.layer].ffn
        if not self.is_expert:
            self._check(ffn.width, "neuron")
            return range(self.index, self.index + 1)
        if not ffn.experts.size:
            raise SetupError(
                f"memory {self}: layer {self.layer} has no experts; name a neuron, 0 to {ffn.width - 1}: "
                f"{self.layer}:NEURON"
            )
        self._check(ffn.experts.count(ffn.width), "expert")
        begin = self.index * ffn.experts.size
        return range(begin, min(begin + ffn.experts.size, ffn.width))

    def _check(self, count: int, what: str) -> None:
        if self.index >= count:
            has = f"layer {self.layer} has {what}s 0 to {count - 1}"
            raise SetupError(f"memory {self}: {what} is {self.index}, {has}; name one of them")


@dataclass(frozen=True, slots=True)
class Firing:
    """strength: the activation h of a neuron, with its sign; of an expert the norm of its output."""

    strength: float
    before: str
    token: str
    after: str


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What a place answers to and says.

    promotes, suppresses: the tokens of the highest and the lowest logits of its value, which is its column of down; of
    an expert the mean of its outputs on the text, each weighted by its norm. A value passes the final norm's weight
    (without the division by the state's size, and without bias) and the head. A negative activation turns both about.
    alignment: of an expert, the norm of that mean over the mean of the norms so weighted: 1 where all outputs point
    one way, near 0 where the value stands for little.
    """

    place: str
    neurons: int
    firings: tuple[Firing, ...]
    promotes: tuple[tuple[str, float], ...]
    suppresses: tuple[tuple[str, float], ...]
    alignment: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_places(places: Sequence[Place], spec: TransformerSpec) -> None:
    """Raises SetupError where the model does not have one of them."""
    for place in places:
        place.columns(spec)


@dataclass(frozen=True, slots=True)
class _Found:
    size: float
    strength: float
    ids: tuple[int, ...]
    at: int


def read_knowledge(
    checkpoint: Checkpoint,
    places: Sequence[Place],
    passages: Passages,
    top: int,
    progress: Progress,
    device: torch.device | None = None,
) -> list[Knowledge]:
    """A memory for each place: its `top` strongest firings on the passages, and as many tokens for and against.

    Runs at the full tier; memory holds one batch and the strongest so far. Raises SetupError for a place that the
    model does not have and for a `top` below 1.
    """
    if top < 1:
        raise SetupError(f"top is {top}, it must be at least 1")
    refuse_mixture(checkpoint.spec)
    columns = [place.columns(checkpoint.spec) for place in places]
    with memory_named("inspect", WAY_OUT):
        model = load_exact(checkpoint, device or choose_device(None))
        watches = _watches(model, list(zip(places, columns, strict=True)), top)
        _watch(model, passages, watches, progress)
        tokenizer = Tokenizer.open(checkpoint.path)
        return [_knowledge_of(watch, model, tokenizer, top) for watch in watches]


def _watches(model: Transformer, places: Sequence[tuple[Place, range]], top: int) -> "list[_Watch]":
    ffns = [layer.ffn for layer in model.layers if isinstance(layer, Layer)]
    return [
        _Watch(place, neurons, dense_weight(ffns[place.layer].down)[:, neurons.start : neurons.stop], top)
        for place, neurons in places
    ]


class _Watch:
    """The strongest firings of one place so far, and the sums that make an expert's value."""

    def __init__(self, place: Place, neurons: range, down: Tensor, top: int) -> None:
        self.place, self.neurons, self._down, self._top = place, neurons, down, top  # down: [hidden, neurons]
        self.best: list[_Found] = []
        self._weighted = torch.zeros(len(down), dtype=torch.float64, device=down.device)  # outputs times their norms
        self._norms = self._squares = 0.0

    def add(self, batch: Tensor, h: Tensor) -> None:
        """Takes in a batch: ids [passages, tokens], h [passages, tokens, width]."""
        mine = h[..., self.neurons.start : self.neurons.stop].flatten(0, 1).float()
        strength = self._output_norms(mine) if self.place.is_expert else mine.squeeze(1)
        size, where = strength.abs().topk(min(self._top, len(strength)))
        found = [
            _Found(value, float(strength[i]), *_around(batch[i // batch.shape[1]].tolist(), i % batch.shape[1]))
            for value, i in zip(size.tolist(), where.tolist(), strict=True)
            if value > 0
        ]
        self.best = sorted([*self.best, *found], key=lambda each: -each.size)[: self._top]

    def _output_norms(self, h: Tensor) -> Tensor:
        outputs = h @ self._down.T  # [tokens, hidden]
        norms: Tensor = torch.linalg.vector_norm(outputs, dim=1)
        self._weighted += norms.double() @ outputs.double()
        self._norms += float(norms.sum(dtype=torch.float64))
        self._squares += float(norms.double().square().sum())
        return norms

    @property
    def value(self) -> Tensor:
        """fp32 [hidden]"""
        if not self.place.is_expert:
            return self._down[:, 0]
        return (self._weighted / (self._norms or 1.0)).float()

    @property
    def alignment(self) -> float | None:
        """None for a neuron, whose outputs lie on one line."""
        if not self.place.is_expert:
            return None
        return float(self._weighted.norm()) / self._squares if self._squares else 0.0


def _around(ids: Sequence[int], position: int) -> tuple[tuple[int, ...], int]:
    """The ids of a context, and which of them is that of the position."""
    begin = max(0, position - BEFORE)
    return tuple(ids[begin : position + 1 + AFTER]), position - begin


def _watch(model: Transformer, passages: Passages, watches: Sequence[_Watch], progress: Progress) -> None:
    batches = list(passages.batches())
    for i, batch in enumerate(batches):

        def look(index: int, ffn: FFN, given: Sequence[Tensor], batch: Tensor = batch) -> None:
            mine = [watch for watch in watches if watch.place.layer == index]
            if mine:
                h = torch.cat([ffn.hidden(x) for x in given])
                for watch in mine:
                    watch.add(batch, h)

        walk(model, batch, look)
        progress("firings", i + 1, len(batches))


@torch.inference_mode()
def token_scores(model: Transformer, value: Tensor) -> Tensor:
    """What a direction adds to each token's logit, up to the positive factor that the final norm divides by.

    head(w * value), w the final norm's weight; a layer norm takes the mean of value away first. value: fp32 [hidden];
    fp32 [vocab].
    """
    centred = value - value.mean() if model.norm.kind == "layer" else value
    return model.head((centred * model.norm.gain).unsqueeze(0)).float().squeeze(0)


def _knowledge_of(watch: _Watch, model: Transformer, tokenizer: Tokenizer, top: int) -> Knowledge:
    scores = token_scores(model, watch.value)
    best, worst = (scores.topk(min(top, len(scores)), largest=largest) for largest in (True, False))
    firings = [
        Firing(each.strength, *spell_within(tokenizer, each.ids[: each.at], each.ids[each.at], each.ids[each.at + 1 :]))
        for each in watch.best
    ]
    promotes, suppresses = (
        tuple((spell(tokenizer, int(i)), float(scores[i])) for i in each.indices) for each in (best, worst)
    )
    return Knowledge(str(watch.place), len(watch.neurons), tuple(firings), promotes, suppresses, watch.alignment)
