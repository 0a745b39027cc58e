"""Perplexity, next-token accuracy, and distance from an original, kept per document."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..models.errors import CheckpointError, TextError
from ..models.tokenizer import Tokenizer
from ..models.transformer import Transformer

Progress = Callable[[int, int], None]  # done, of how many
_HEAD_TOKENS = 128  # logits made at once: [128, vocab] is 25 MB at a vocabulary of 49,152


@dataclass(frozen=True, slots=True)
class DocumentScore:
    """Sums over the predicted tokens of one document; the last two are against the original, if there is one."""

    num_tokens: int = 0
    nats: float = 0.0
    num_correct: int = 0
    kl_nats: float = 0.0
    num_agreed: int = 0

    def __add__(self, other: "DocumentScore") -> "DocumentScore":
        return DocumentScore(
            self.num_tokens + other.num_tokens,
            self.nats + other.nats,
            self.num_correct + other.num_correct,
            self.kl_nats + other.kl_nats,
            self.num_agreed + other.num_agreed,
        )


@dataclass(frozen=True, slots=True)
class Score:
    """What a model makes of a text. `documents` is kept for intervals over documents."""

    documents: tuple[DocumentScore, ...]
    compared: bool = False

    @property
    def total(self) -> DocumentScore:
        return sum(self.documents, DocumentScore())

    @property
    def nats_per_token(self) -> float:
        return self.total.nats / self.total.num_tokens

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats_per_token) if self.nats_per_token < 700 else math.inf

    @property
    def top1_accuracy(self) -> float:
        return self.total.num_correct / self.total.num_tokens

    def rows(self) -> list[dict[str, float | int]]:
        """The sums of each document, for files."""
        return [asdict(document) for document in self.documents]

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
        if self.compared:
            figures["kl_nats_per_token"] = total.kl_nats / total.num_tokens
            figures["top1_agreement"] = total.num_agreed / total.num_tokens
        return figures


def encode_documents(
    documents: Sequence[str], tokenizer: Tokenizer, truncate: int | None = None, vocab_size: int | None = None
) -> list[list[int]]:
    """Token ids of each document, with the begin token where there is one, cut at `truncate` tokens.

    Raises TextError where no document leaves a token to predict, CheckpointError for an id from `vocab_size` on.
    """
    encoded = [tokenizer.encode(document)[:truncate] for document in documents]
    if not any(len(ids) > 1 for ids in encoded):
        raise TextError(f"none of the {len(encoded)} documents has two tokens; give longer text or a larger truncate")
    largest = max(max(ids, default=0) for ids in encoded)
    if vocab_size is not None and largest >= vocab_size:
        raise CheckpointError(
            f"the tokenizer gives the id {largest}, the model's vocabulary has {vocab_size}; "
            "tokenizer.json is of another model"
        )
    return encoded


@torch.inference_mode()
def score_documents(
    model: Transformer,
    encoded: Sequence[Sequence[int]],
    original: Transformer | None = None,
    progress: Progress | None = None,
    window: int | None = None,
) -> Score:
    """Scores every token but the first of each document. With `original`, its distributions are compared as well.

    A document longer than `window` tokens (by default the model's context) is scored in pieces; each later piece
    starts with the last token of the one before.
    """
    size = window or model.spec.max_context
    scores = []
    for done, ids in enumerate(encoded, 1):
        pieces = (_score_window(model, original, piece) for piece in _windows(ids, size))
        scores.append(sum(pieces, DocumentScore()))
        if not math.isfinite(scores[-1].nats):
            raise CheckpointError(f"the model's logits are not finite in document {done}; its weights are damaged")
        if progress:
            progress(done, len(encoded))
    return Score(tuple(scores), compared=original is not None)


def _windows(ids: Sequence[int], size: int) -> list[Sequence[int]]:
    return [ids[start : start + size] for start in range(0, max(len(ids) - 1, 0), size - 1)]


def _score_window(model: Transformer, original: Transformer | None, window: Sequence[int]) -> DocumentScore:
    device = model.norm.weight.device
    ids = torch.tensor([list(window)], device=device)
    states = model.hidden(ids[:, :-1])[0]
    theirs = None if original is None else original.hidden(ids[:, :-1])[0]
    score = DocumentScore()
    for begin in range(0, states.shape[0], _HEAD_TOKENS):
        part = slice(begin, begin + _HEAD_TOKENS)
        target = ids[0, 1:][part]
        logits = model.head(states[part]).float()
        other = None if original is None or theirs is None else original.head(theirs[part]).float()
        score += score_logits(logits, target, other)
    return score


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
