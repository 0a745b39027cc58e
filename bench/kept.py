"""What was kept, scored by us and, as a check, by transformers on the very same tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..evaluate.measure import score_as_one
from ..evaluate.plan import Plan
from ..evaluate.score import Score, score_logits
from ..evaluate.texts import embedded_text, encode_documents, read_documents
from ..models.progress import Progress
from ..models.tokenizer import Tokenizer
from .contestants import TransformersContestant
from .figure import mean_of


@dataclass(frozen=True, slots=True)
class ScoredText:
    """The text that is scored: files (none: the one that ships), how many documents, cut at how many tokens."""

    files: tuple[str, ...] = ()
    documents: int | None = None
    truncate: int | None = 512

    def encoded(self, path: Path) -> list[list[int]]:
        """Token ids of each document, by the tokenizer of the model at `path`."""
        documents = read_documents(self.files or (embedded_text(),), self.documents)
        return encode_documents(documents, Tokenizer.open(path), self.truncate)


def score_ours(path: Path, dense: Path, text: ScoredText, threads: int | None, progress: Progress) -> dict[str, Any]:
    """The figures of one of our directories, compared with the dense one unless it is that."""
    against = None if path == dense else dense
    plan = Plan(path, against, text.files, text.documents, text.truncate, threads=threads)
    score = score_as_one(plan, lambda done, total: progress(f"documents scored by {path.name}", done, total))
    return _told(score)


def score_theirs(peer: TransformersContestant, encoded: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The same figures by transformers; documents must fit its context, which `truncate` sees to."""
    documents = []
    for ids in encoded:
        logits = peer.logits(ids)[:-1].float()
        documents.append(score_logits(logits, torch.tensor(list(ids[1:]), device=logits.device), None))
    return _told(Score(tuple(documents)))


def _told(score: Score) -> dict[str, Any]:
    """In sum, and by document, so that two reports can be compared."""
    nats = mean_of([(each.nats, each.num_tokens) for each in score.documents], "nats/token", "less")
    right = mean_of([(each.num_correct, each.num_tokens) for each in score.documents], "", "more")
    return {**score.summary(), "figures": {"nats": nats.as_json(), "top1": right.as_json()}}
