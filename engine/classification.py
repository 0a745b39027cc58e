"""From a text's token ids to what an engine of a classifier is asked, and from its logits to labels. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..models.errors import Unsupported
from ..models.labels import Labels
from .embedding import check_text
from .request import Limits, Priority, Request


@dataclass(frozen=True, slots=True)
class Classified:
    """What a classifier makes of a text. label: the one with the largest score. scores, logits: of every label, in the
    order of the model's. num_tokens: that were read; truncated: whether the text had more.
    """

    label: str
    scores: tuple[float, ...]
    logits: tuple[float, ...]
    labels: tuple[str, ...]
    num_tokens: int
    truncated: bool = False

    @property
    def by_label(self) -> dict[str, float]:
        """The score of each label."""
        return dict(zip(self.labels, self.scores, strict=True))


def classified(labels: Labels, logits: Sequence[float], num_tokens: int, truncated: bool) -> Classified:
    """What logits say."""
    scores = labels.scores(logits)
    return Classified(labels.chosen(scores), scores, tuple(logits), labels.names, num_tokens, truncated)


def classifier_labels(labels: Labels | None, name: str) -> Labels:
    """The labels of a classifier. Raises Unsupported for a model that is none."""
    if labels is None:
        raise Unsupported(
            f"{name} has no classifier: ask a checkpoint of a ...ForSequenceClassification, or train one on labelled "
            "examples with `moesaic classifier MODEL OUT --examples FILE`"
        )
    return labels


def classify_request(ids: Sequence[int], limits: Limits, priority: Priority = Priority.NORMAL) -> Request:
    """What the engine is asked. Raises InvalidRequest for a text that it cannot read."""
    check_text(ids, limits)
    return Request(0, tuple(ids), priority=priority, classify=True)
