"""Perplexity, next-token accuracy, and distance from an original, kept per document.

Every figure comes from the reader and the slot cache that serve, prefilled in the engine's chunks.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

import torch
from torch import Tensor

from ..engine.scoring import READ_TOKENS, Reader
from ..models.errors import CheckpointError
from ..models.finite import PROBE_TOKENS, check_range
from ..models.progress import Count
from ..models.transformer import Transformer

Memory = dict[tuple[int, ...], Tensor]  # states [tokens, hidden] of one model by the tokens that it read
_HEAD_TOKENS = 128  # logits made at once: [128, vocab] is 25 MB at a vocabulary of 49,152


@dataclass(frozen=True, slots=True)
class DocumentScore:
    """Sums over the predicted tokens of one document; kl_nats and num_agreed are against the original, if any.

    Words and bytes are of the text that these tokens spell; 0 where only token ids are known.
    """

    num_tokens: int = 0
    nats: float = 0.0
    num_correct: int = 0
    kl_nats: float = 0.0
    num_agreed: int = 0
    num_words: int = 0
    num_bytes: int = 0

    def __add__(self, other: "DocumentScore") -> "DocumentScore":
        return DocumentScore(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


@dataclass(frozen=True, slots=True)
class Score:
    """What a model makes of a text. `documents` and, for long documents, `pieces` are kept for intervals.

    seconds: what the model's own passes took. shares: of the bytes that tiers govern and of the FFN's neurons,
    what a token used, a mean over the tokens read; (1, 1) for a model with one tier.
    """

    documents: tuple[DocumentScore, ...]
    compared: bool = False
    pieces: tuple[DocumentScore, ...] = field(default=(), compare=False)
    seconds: float = field(default=0.0, compare=False)
    shares: tuple[float, float] = (1.0, 1.0)

    @property
    def total(self) -> DocumentScore:
        return sum(self.documents, DocumentScore())

    @property
    def nats_per_token(self) -> float:
        return self.total.nats / self.total.num_tokens

    @property
    def perplexity(self) -> float:
        return _exp(self.nats_per_token)

    @property
    def top1_accuracy(self) -> float:
        return self.total.num_correct / self.total.num_tokens

    def rows(self) -> list[dict[str, float | int]]:
        """The sums of each document, for files."""
        return [asdict(document) for document in self.documents]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values, for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` gave. Raises KeyError or TypeError for anything else."""
        documents, pieces = (tuple(DocumentScore(**row) for row in values[key]) for key in ("documents", "pieces"))
        share, neurons = values["shares"]
        return cls(documents, values["compared"], pieces, values["seconds"], (share, neurons))

    def summary(self) -> dict[str, float | int]:
        """The figures as they are written to files; KL is of the original's distribution to the model's."""
        total = self.total
        figures: dict[str, float | int] = {
            "documents": len(self.documents),
            "tokens": total.num_tokens,
            "nats_per_token": self.nats_per_token,
            "perplexity": self.perplexity,
            "top1_accuracy": self.top1_accuracy,
        }
        if self.shares != (1.0, 1.0):
            figures["bytes_share"], figures["neurons_share"] = self.shares
        if total.num_words:
            figures["nats_per_word"] = total.nats / total.num_words
            figures["word_perplexity"] = _exp(total.nats / total.num_words)
            figures["bits_per_byte"] = total.nats / math.log(2) / total.num_bytes
        if self.compared:
            figures["kl_nats_per_token"] = total.kl_nats / total.num_tokens
            figures["top1_agreement"] = total.num_agreed / total.num_tokens
        return figures


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def score_documents(
    model: Transformer,
    encoded: Sequence[Sequence[int]],
    original: Transformer | None = None,
    progress: Count | None = None,
    window: int | None = None,
    stride: int | None = None,
    memory: Memory | None = None,
) -> Score:
    """Scores every token but the first of each document. With `original`, its distributions are compared as well.

    window and stride are those of `cut`; window is by default the model's context. memory: of the original, filled and
    used, for whoever compares many models with one.
    """
    models = [model] if original is None else [model, original]
    return score_together(models, encoded, None if original is None else 1, progress, window, stride, memory)[0]


@torch.inference_mode()
def score_together(
    models: Sequence[Transformer],
    encoded: Sequence[Sequence[int]],
    original: int | None = None,
    progress: Count | None = None,
    window: int | None = None,
    stride: int | None = None,
    memory: Memory | None = None,
) -> list[Score]:
    """A score of each model on the same tokens, in one go; `original`: index of the one they are compared with.

    memory: the original's, as in `score_documents`. Raises CheckpointError for numbers that the arithmetic cannot hold.
    """
    longest = max((len(ids) for ids in encoded), default=0)
    size = max(2, min(window or models[0].spec.max_context, longest))
    first = encoded[0] if encoded else ()
    readers = [reader_of(each, size, () if memory and i == original else first) for i, each in enumerate(models)]
    seconds = [0.0] * len(readers)
    pieces: list[list[DocumentScore]] = [[] for _ in models]
    documents: list[list[DocumentScore]] = [[] for _ in models]
    for done, ids in enumerate(encoded, 1):
        windows = [
            _score_window(readers, ids[begin:end], first - begin, original, seconds, memory)
            for begin, end, first in cut(len(ids), size, stride)
        ]
        for i in range(len(models)):
            mine = [scores[i] for scores in windows]
            pieces[i] += mine
            documents[i].append(sum(mine, DocumentScore()))
            if not math.isfinite(documents[i][-1].nats):
                check_range(models[i], ids[:size])
                raise CheckpointError(f"the model's logits are not finite in document {done}; its weights are damaged")
        if progress:
            progress(done, len(encoded))
    return [
        Score(tuple(rows), original is not None, tuple(parts), spent, _shares(reader))
        for rows, parts, spent, reader in zip(documents, pieces, seconds, readers, strict=True)
    ]


def _shares(reader: Reader) -> tuple[float, float]:
    tokens, num_bytes, neurons = reader.scored
    return (num_bytes / tokens, neurons / tokens) if tokens else (1.0, 1.0)


def reader_of(model: Transformer, max_context: int, ids: Sequence[int] = ()) -> Reader:
    """Reads what is scored, as the engine would. ids: some of it; where these already lead the model's numbers beyond
    what the arithmetic holds, CheckpointError says which tensor does, before the long work.
    """
    check_range(model, ids[: min(PROBE_TOKENS, max_context)])
    return Reader(model, max_context)


def cut(count: int, size: int, stride: int | None = None) -> list[tuple[int, int, int]]:
    """Windows (begin, end, first) of at most `size` tokens that predict each of the tokens 1 .. count-1 once.

    A window reads the tokens begin .. end-1 and scores first .. end-1. Each later window begins `stride` tokens after
    the one before and scores its new tokens only, so a small stride gives every token a long past, at the price of
    size / stride as much work. By default stride is size - 1: a window starts with the last token of the one before.
    """
    windows, scored = [], 1
    for begin in range(0, count, stride or size - 1):
        end = min(begin + size, count)
        if end > scored:
            windows.append((begin, end, scored))
        scored = end
        if end == count:
            break
    return windows


def _score_window(
    readers: Sequence[Reader],
    window: Sequence[int],
    first: int,
    original: int | None,
    seconds: list[float],
    memory: Memory | None,
) -> list[DocumentScore]:
    """Scores of the tokens from `first` on, by each reader; adds the time each takes to `seconds`."""
    states = []
    for i, reader in enumerate(readers):
        began = time.perf_counter()
        states.append(_states(reader, window[:-1], first, memory if i == original else None)[first - 1 :])
        seconds[i] += time.perf_counter() - began
    targets = torch.tensor(list(window[first:]), device=readers[0].device)
    scores = [DocumentScore()] * len(readers)
    for begin in range(0, len(targets), _HEAD_TOKENS):
        part = slice(begin, begin + _HEAD_TOKENS)
        logits = []
        for i, reader in enumerate(readers):
            began = time.perf_counter()
            logits.append(reader.head(states[i][part]).float())
            seconds[i] += time.perf_counter() - began
        theirs = None if original is None else logits[original]
        scores = [score + score_logits(mine, targets[part], theirs) for score, mine in zip(scores, logits, strict=True)]
    return scores


def _states(reader: Reader, ids: Sequence[int], first: int, memory: Memory | None) -> Tensor:
    known = None if memory is None else memory.get(tuple(ids))
    states = window_states(reader, ids, first) if known is None else known
    if memory is not None:
        memory[tuple(ids)] = states
    return states


def window_states(reader: Reader, ids: Sequence[int], context: int = 0) -> Tensor:
    """States [tokens, hidden] of tokens from position 0 on, the first `context` of them read as a prompt is."""
    starts = range(0, len(ids), READ_TOKENS)
    return torch.cat([reader.read(ids[start : start + READ_TOKENS], start, context) for start in starts])


def score_logits(logits: Tensor, target: Tensor, original: Tensor | None) -> DocumentScore:
    """The sums over some tokens. logits and original: fp32 [tokens, vocab], target: [tokens]."""
    log_p = torch.log_softmax(logits, dim=-1)
    nats = -log_p.gather(1, target.unsqueeze(1)).double().sum().item()
    best = log_p.argmax(-1)
    correct = int((best == target).sum())
    if original is None:
        return DocumentScore(len(target), nats, correct)
    log_q = torch.log_softmax(original, dim=-1)
    kl = (log_q.exp() * (log_q - log_p)).sum(-1).double().sum().item()
    return DocumentScore(len(target), nats, correct, kl, int((best == log_q.argmax(-1)).sum()))
