"""What became of the vectors of an encoder: their cosines with those of the original."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch.nn import functional

from ..engine.encoder import embed
from ..engine.request import Request
from ..models.progress import Count
from ..models.sentences import Pooling
from ..models.transformer import Transformer


@dataclass(frozen=True, slots=True)
class Alikeness:
    """Of each text the cosine of the vectors that two models make of it. num_tokens: of all texts."""

    cosines: tuple[float, ...]
    num_tokens: int

    def summary(self) -> dict[str, float | int]:
        """The figures as they are written to files."""
        mean = sum(self.cosines) / len(self.cosines)
        return {
            "documents": len(self.cosines), "tokens": self.num_tokens,
            "mean_cosine": mean, "least_cosine": min(self.cosines),
        }  # fmt: skip


def alikeness(
    model: Transformer, original: Transformer, encoded: Sequence[Sequence[int]], kind: str, progress: Count
) -> Alikeness:
    """Compares two encoders on texts that are token ids. kind: of pooling."""
    cosines = []
    for i, ids in enumerate(encoded):
        request = [Request(i, tuple(ids), pooling=Pooling(kind))]
        cosines.append(float(functional.cosine_similarity(embed(model, request), embed(original, request))))
        progress(i + 1, len(encoded))
    return Alikeness(tuple(cosines), sum(map(len, encoded)))
