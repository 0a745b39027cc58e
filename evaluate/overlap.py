"""How much of a text stands in a training text too: runs of 13 words that both have (as Brown et al. 2020, app. C)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RUN_WORDS = 13
_WORD = re.compile(r"\w+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Overlap:
    """num_words of the text, and how many of them lie in a run that the training text has as well."""

    num_words: int
    num_covered: int

    @property
    def share(self) -> float:
        return self.num_covered / self.num_words if self.num_words else 0.0


def measure_overlap(documents: Sequence[str], training: Sequence[str]) -> Overlap:
    """The overlap of a text with a training text, both as documents. Case and punctuation do not count."""
    runs = [_run_hashes(document) for document in documents]
    wanted = np.unique(np.concatenate([np.zeros(0, np.uint64), *runs]))
    found = np.zeros(len(wanted), bool)
    for document in training:
        found |= np.isin(wanted, _run_hashes(document))
    num_words = sum(len(_WORD.findall(document)) for document in documents)
    return Overlap(num_words, sum(_covered(found[np.searchsorted(wanted, run)]) for run in runs if len(run)))


def _run_hashes(document: str) -> Hashes:
    """One hash for the run that starts at each word; empty for a text of fewer words than a run. Sums wrap at 2^64."""
    words = [hash(word) for word in _WORD.findall(document.lower())]
    if len(words) < RUN_WORDS:
        return np.zeros(0, np.uint64)
    values = np.array(words, np.int64).view(np.uint64)
    count = len(values) - RUN_WORDS + 1
    hashes = np.zeros(count, np.uint64)
    for i in range(RUN_WORDS):
        hashes = hashes * _MULTIPLIER + values[i : i + count]
    return hashes


def _covered(shared: NDArray[np.bool_]) -> int:
    """How many words lie in at least one of these runs."""
    edges = np.zeros(len(shared) + RUN_WORDS, np.int64)
    edges[: len(shared)] += shared
    edges[RUN_WORDS:] -= shared
    return int((edges.cumsum() > 0).sum())
