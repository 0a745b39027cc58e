"""Scoring a model by its path: the short door of this folder. The long one, with everything, is measure.py."""

from collections.abc import Sequence
from pathlib import Path

from ..models.progress import Count
from ..models.threads import torch_threads
from .measure import score_corpus
from .plan import MODEL, Opened, Plan
from .score import Score
from .texts import embedded_text


def evaluate(
    path: str | Path,
    against: str | Path | None = None,
    text: Sequence[str | Path] | None = None,
    documents: int | None = None,
    truncate: int | None = None,
    *,
    stride: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    max_context: int | None = None,
    progress: Count | None = None,
) -> Score:
    """The score of a model on text files (by default the text that ships), and its distance from `against`.

    Several files are one text. Raises SetupError where the two models do not share their tokenizer, TextError for
    text that cannot be scored.
    """
    plan = Plan(
        path, against, text or [embedded_text()], documents, truncate, stride,
        device=device, dtype=dtype, threads=threads, max_context=max_context,
    )  # fmt: skip
    plan.check()
    opened = Opened(plan)
    corpus = opened.corpus(*map(Path, plan.text))
    with torch_threads(opened.threads):
        return score_corpus(corpus, opened.load(), opened, progress)[MODEL]
