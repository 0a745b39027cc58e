"""The engine of encoders and classifiers: what waits is computed together, each text in one pass. Token ids only."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..models.compute import Compute
from ..models.ffn.sparse import SparseFFN
from ..models.linear import Graded, Int8Linear
from ..models.reading import ReadingProgram
from ..models.sentences import CLS, MEAN, Pooling
from ..models.transformer import Transformer
from ..models.walk import NoProgramError
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
        reader: "EncoderRunner",
        num_slots: int = STEP_TEXTS,
        now: Callable[[], float] = time.monotonic,
        watched: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """watched: entered around each forward pass, by whoever wants to know how long it takes."""
        self._reader, self._now, self._watched = reader, now, watched
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
                computed = self._reader.logits if texts[0].request.classify else self._reader.vectors
                vectors = computed([text.request for text in texts]).tolist()
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


class EncoderRunner:
    """An encoder as it is run: on a CPU by one call of the C++ where its linears are int8, which packs its weights,
    else module by module; without_program says why.
    """

    def __init__(self, model: Transformer) -> None:
        self.model, self._threads = model, torch.get_num_threads()
        self._program: ReadingProgram | None = None
        try:
            self._program, self.without_program = _programmed(model), ""
        except NoProgramError as error:
            self.without_program = str(error)

    def use_threads(self, count: int) -> None:
        """Computes on so many from now on. A program has a team of its own, beside which torch keeps one thread."""
        self._threads = count
        torch.set_num_threads(count if self._program is None else 1)

    @torch.inference_mode()
    def vectors(self, requests: Sequence[Request]) -> Tensor:
        """Vectors fp32 [texts, hidden] of one pass. Raises ArithmeticError for one that is not finite."""
        return _vectors(self._states(requests), requests)

    @torch.inference_mode()
    def logits(self, requests: Sequence[Request]) -> Tensor:
        """Logits fp32 [texts, labels] of one pass. Raises ArithmeticError for one that is not finite."""
        return _logits(self.model, self._states(requests), requests)

    def _states(self, requests: Sequence[Request]) -> Sequence[Tensor]:
        if self._program is None:
            return states_of(self.model, requests)
        texts = [request.prompt_ids for request in requests]
        return torch.split(self._program.run(texts, self._threads), [len(text) for text in texts])


def _programmed(model: Transformer) -> ReadingProgram:
    """Raises NoProgramError for what there is none for, or where torch is the faster one."""
    if model.device.type != "cpu":
        raise NoProgramError("it is on a GPU")
    if model.spec.causal:
        raise NoProgramError("its texts look back only")
    if any(isinstance(each, SparseFFN | Graded) for each in model.modules()):
        raise NoProgramError("its texts may ask for tiers")
    if not any(isinstance(each, Int8Linear) for each in model.modules()):
        raise NoProgramError("its linears are not int8")
    return ReadingProgram(model)


@torch.inference_mode()
def embed(model: Transformer, requests: Sequence[Request], compute: Compute | None = None) -> Tensor:
    """The vectors module by module, each text at the operating point that its request names; compute: the account to
    write into, by whose points it goes.
    """
    return _vectors(states_of(model, requests, compute), requests)


def states_of(model: Transformer, requests: Sequence[Request], compute: Compute | None = None) -> list[Tensor]:
    """States [tokens, hidden] of each text, of one pass."""
    rows, device = [request.prompt_ids for request in requests], model.embedding.weight.device
    most = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (most - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    padded = any(len(row) < most for row in rows)
    if compute is None and any(request.operating_point for request in requests):
        compute = model.compute_of([request.operating_point for request in requests])
    states = model.hidden(ids, context=model.context_of(ids, lengths if padded else None), compute=compute)
    return [each[: len(row)] for each, row in zip(states, rows, strict=True)]


def _vectors(states: Sequence[Tensor], requests: Sequence[Request]) -> Tensor:
    pairs = zip(states, requests, strict=True)
    return _finite(torch.stack([pooled(each.float(), one.pooling or Pooling()) for each, one in pairs]))


def _logits(model: Transformer, states: Sequence[Tensor], requests: Sequence[Request]) -> Tensor:
    if model.classifier is None:
        raise TypeError(f"this {model.spec.family} has no classifier")
    places = [model.spec.classifier.place(request.prompt_ids) for request in requests]
    return _finite(model.classifier(torch.stack([each[i] for each, i in zip(states, places, strict=True)])).float())


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
