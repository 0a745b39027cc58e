"""The engine of encoders and classifiers: what waits is computed together, each text in one pass. Token ids only."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..models.sentences import CLS, MEAN, Pooling
from ..models.transformer import Transformer
from .isolation import told
from .queue import FairQueue
from .request import FinishReason, Load, Request, Row, Timing

STEP_TOKENS = 4096  # of a pass, padding included
STEP_TEXTS = 32  # of a step, at least


@dataclass(eq=False, slots=True)
class _Text:
    request: Request
    arrived: float

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt_ids)

    def is_late(self, now: float) -> bool:
        return self.request.deadline_seconds is not None and self.request.deadline_seconds <= now


class EncoderEngine:
    """Turns requests into rows with a vector each, or with the logits of labels. It has no cache, so that a request is
    over with its step.
    """

    def __init__(
        self,
        model: Transformer,
        num_slots: int = STEP_TEXTS,
        now: Callable[[], float] = time.monotonic,
        watched: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """watched: entered around each forward pass, by whoever wants to know how long it takes."""
        self._model, self._now, self._watched = model, now, watched
        self._num_slots = num_slots
        self._waiting: FairQueue[_Text] = FairQueue()

    @property
    def has_work(self) -> bool:
        return len(self._waiting) > 0

    @property
    def load(self) -> Load:
        return Load(self._num_slots, self._num_slots, 0, len(self._waiting))

    def add(self, request: Request) -> None:
        """Puts a request behind the waiting ones of its caller."""
        self._waiting.push(_Text(request, self._now() if request.arrived_seconds is None else request.arrived_seconds))

    def abort(self, key: int, choice: int | None = None) -> None:
        """Forgets a request that still waits; an unknown one is nothing to do."""
        self._waiting.remove(lambda text: text.request.key == key)

    def step(self) -> list[Row]:
        """Computes those that are next, those of like lengths together, and tells what came of it."""
        began = self._now()
        late = self._waiting.remove(lambda text: text.is_late(began))
        rows = [Row(text.request.key, finish=FinishReason.EXPIRED) for text in late]
        taken = list[_Text]()
        while len(taken) < self._num_slots and (text := self._waiting.pop()):
            taken.append(text)
        for kind in (False, True):
            like = [text for text in taken if text.request.classify is kind]
            for batch in _batches(sorted(like, key=lambda text: text.num_prompt)):
                rows += self._computed(batch, began)
        return rows

    def _computed(self, texts: Sequence[_Text], began: float) -> list[Row]:
        """A row of each, all to be embedded or all to be classified. Where a batch fails, each half is computed by
        itself, down to the text that is to blame.
        """
        try:
            with self._watched():
                computed = classify if texts[0].request.classify else embed
                vectors = computed(self._model, [text.request for text in texts]).tolist()
        except Exception as error:
            if len(texts) == 1:
                return [Row(texts[0].request.key, finish=FinishReason.FAILED, error=told(error))]
            middle = len(texts) // 2
            return self._computed(texts[:middle], began) + self._computed(texts[middle:], began)
        return [self._row(text, vector, began) for text, vector in zip(texts, vectors, strict=True)]

    def _row(self, text: _Text, vector: Sequence[float], began: float) -> Row:
        timing = Timing(max(0.0, began - text.arrived), self._now() - began)
        if text.request.classify:
            return Row(text.request.key, finish=FinishReason.CLASSIFIED, timing=timing, logits=tuple(vector))
        return Row(text.request.key, finish=FinishReason.EMBEDDED, timing=timing, embedding=tuple(vector))


@torch.inference_mode()
def embed(model: Transformer, requests: Sequence[Request]) -> Tensor:
    """Vectors fp32 [texts, hidden] of one pass. Raises ArithmeticError for one that is not finite."""
    pairs = zip(states_of(model, requests).float(), requests, strict=True)
    return _finite(torch.stack([pooled(each[: len(one.prompt_ids)], one.pooling or Pooling()) for each, one in pairs]))


@torch.inference_mode()
def classify(model: Transformer, requests: Sequence[Request]) -> Tensor:
    """Logits fp32 [texts, labels] of one pass. Raises ArithmeticError for one that is not finite."""
    if model.classifier is None:
        raise TypeError(f"this {model.spec.family} has no classifier")
    places = [model.spec.classifier.place(request.prompt_ids) for request in requests]
    states = states_of(model, requests)[torch.arange(len(places)), torch.tensor(places)]
    return _finite(model.classifier(states).float())


def states_of(model: Transformer, requests: Sequence[Request]) -> Tensor:
    """States [texts, tokens, hidden] of one pass, those behind the end of a shorter text without a meaning."""
    rows, device = [request.prompt_ids for request in requests], model.embedding.weight.device
    most = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (most - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    padded = any(len(row) < most for row in rows)
    return model.hidden(ids, context=model.context_of(ids, lengths if padded else None))


def _finite(found: Tensor) -> Tensor:
    if not found.isfinite().all():
        raise ArithmeticError("the model makes NaN or infinity of this text: its weights are damaged or out of scale")
    return found


def pooled(states: Tensor, pooling: Pooling) -> Tensor:
    """The vector [hidden] of a text's states [tokens, hidden]."""
    vector = states.mean(0) if pooling.kind == MEAN else states[0 if pooling.kind == CLS else -1]
    return functional.normalize(vector, dim=0) if pooling.normalised else vector


def _batches(texts: Sequence[_Text]) -> Iterator[list[_Text]]:
    """Texts in the order of their lengths, as many together as a pass takes with their padding."""
    batch = list[_Text]()
    for text in texts:
        if batch and (len(batch) + 1) * text.num_prompt > STEP_TOKENS:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch
