"""What the vectors of an encoder are worth: whether each query finds the passage that belongs to it among all of them,
and how alike they are to the vectors of an original.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..engine.encoder import embed
from ..engine.request import Request
from ..models.errors import TextError
from ..models.progress import Count
from ..models.sentences import Pooling
from ..models.tokenizer import Tokenizer
from ..models.transformer import Transformer
from .statistics import Comparison, compare_means

RECIPROCAL_RANK, RECALL = "mean_reciprocal_rank", "recall_at_1"
_ROWS = 16  # embedded together
_LEAST_TOKENS = 4  # of a half


@dataclass(frozen=True, slots=True)
class Retrieval:
    """texts: token ids; queries and passages: pairs of them that belong together, as indices of texts."""

    texts: tuple[tuple[int, ...], ...]
    queries: tuple[int, ...]
    passages: tuple[int, ...]

    @classmethod
    def of_halves(cls, documents: Sequence[Sequence[int]], tokenizer: Tokenizer, window: int) -> "Retrieval":
        """The first half of each document asks for its second half, as in the inverse cloze task (Lee, Chang and
        Toutanova 2019, section 4). documents: token ids as an encoder reads them; windows of them are halved.

        Raises TextError where fewer than two can be.
        """
        before, behind = tokenizer.around
        bodies = [ids[len(before) : len(ids) - len(behind)] for ids in documents]
        most = 2 * (window - len(before) - len(behind))
        halved = [body[:most] for body in bodies if len(body) >= 2 * _LEAST_TOKENS]
        if len(halved) < 2:
            raise TextError(
                f"{len(halved)} of {len(documents)} documents can be halved into a query and its passage, and ranks "
                "need 2 at least; give longer documents, or more"
            )
        texts = [
            (*before, *half, *behind) for body in halved for half in (body[: len(body) // 2], body[len(body) // 2 :])
        ]
        return cls.of_pairs([(texts[i], texts[i + 1]) for i in range(0, len(texts), 2)])

    @classmethod
    def of_pairs(cls, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> "Retrieval":
        """Pairs of a query and the passage that belongs to it."""
        texts = tuple(tuple(each) for pair in pairs for each in pair)
        return cls(texts, tuple(range(0, len(texts), 2)), tuple(range(1, len(texts), 2)))

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.texts))


@dataclass(frozen=True, slots=True)
class VectorScore:
    """ranks: of each query's own passage among all, 1 where none is nearer; of those as near, the mean rank.
    cosines: of each text the cosine with the original's vector; empty for the original. shares: as `Score` has them.
    """

    ranks: tuple[float, ...]
    num_tokens: int
    cosines: tuple[float, ...] = ()
    shares: tuple[float, float] = (1.0, 1.0)

    def summary(self) -> dict[str, float | int]:
        """The figures as they are written to files."""
        found: dict[str, float | int] = {
            "documents": len(self.ranks), "tokens": self.num_tokens,
            RECIPROCAL_RANK: sum(self.reciprocal_ranks) / len(self.ranks), RECALL: sum(self.hits) / len(self.ranks),
        }  # fmt: skip
        if self.cosines:
            found |= {"mean_cosine": sum(self.cosines) / len(self.cosines), "least_cosine": min(self.cosines)}
        if self.shares != (1.0, 1.0):
            found["bytes_share"], found["neurons_share"] = self.shares
        return found

    @property
    def reciprocal_ranks(self) -> list[float]:
        return [1 / rank for rank in self.ranks]

    @property
    def hits(self) -> list[float]:
        return [float(rank == 1) for rank in self.ranks]

    def to_json(self) -> dict[str, Any]:
        """The figures, and those of each query and text."""
        return {**self.summary(), **asdict(self)}


@dataclass(frozen=True, slots=True)
class Vectors:
    """of_texts: fp32 [texts, hidden], at length 1. shares: of the bytes that tiers govern, and of neurons."""

    of_texts: Tensor
    shares: tuple[float, float]


def vectors_of(model: Transformer, texts: Sequence[Sequence[int]], kind: str, progress: Count) -> Vectors:
    """The vectors at the model's own operating point. kind: of pooling."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found, spent, tokens = torch.empty(len(texts), model.spec.hidden_size), [0.0, 0.0], 0
    for begin in range(0, len(order), _ROWS):
        rows = order[begin : begin + _ROWS]
        requests = [Request(i, tuple(texts[i]), pooling=Pooling(kind)) for i in rows]
        compute = model.compute_of([model.operating_point] * len(rows)) if model.operating_point else None
        found[rows] = embed(model, requests, compute).cpu()
        read = max(len(texts[i]) for i in rows)
        shares = [(1.0, 1.0)] * len(rows) if compute is None else compute.spent.shares(read)
        for i in (0, 1):
            spent[i] += read * sum(each[i] for each in shares)
        tokens += read * len(rows)
        progress(begin + len(rows), len(texts))
    return Vectors(found, (spent[0] / tokens, spent[1] / tokens))


def score_vectors(mine: Vectors, material: Retrieval, original: Vectors | None = None) -> VectorScore:
    """The ranks by cosine, and the cosines with an original's vectors of the same texts."""
    queries, passages = (mine.of_texts[list(rows)] for rows in (material.queries, material.passages))
    nearness = queries @ passages.T
    own = nearness.diagonal().unsqueeze(1)
    nearer, as_near = (nearness > own).sum(1), (nearness == own).sum(1) - 1
    ranks = 1 + nearer + as_near / 2
    cosines = () if original is None else functional.cosine_similarity(mine.of_texts, original.of_texts).tolist()
    return VectorScore(tuple(ranks.tolist()), material.num_tokens, tuple(cosines), mine.shares)


def compare_vectors(ours: VectorScore, theirs: VectorScore, seed: int = 0) -> dict[str, Comparison]:
    """Paired bootstrap over the queries of both figures of retrieval."""
    return {
        RECIPROCAL_RANK: compare_means(ours.reciprocal_ranks, theirs.reciprocal_ranks, seed=seed),
        RECALL: compare_means(ours.hits, theirs.hits, seed=seed),
    }
