"""What a classifier tells apart, as config.json says it, and what its logits mean. No torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import CheckpointError
from .suggestion import suggestion
from .tokenizer import is_unicode

SINGLE, MULTI, REGRESSION = "single_label_classification", "multi_label_classification", "regression"
PROBLEMS = (SINGLE, MULTI, REGRESSION)  # as config.json names them in problem_type
MOST_LABELS = 1 << 16
_BY_ITSELF = 2  # labels of a config that says nothing of them, which `transformers` leaves out when it writes one


@dataclass(frozen=True, slots=True)
class Labels:
    """The names of a classifier's logits, in their order, and the problem that it was trained for."""

    names: tuple[str, ...]
    problem: str = SINGLE

    def scores(self, logits: Sequence[float]) -> tuple[float, ...]:
        """What logits [labels] mean: of one label in many exp(x) / sum(exp(x)), of many labels at once
        1 / (1 + exp(-x)) each, of a regression the numbers themselves. As `transformers`' text-classification pipeline.
        """
        if self.problem == REGRESSION:
            return tuple(logits)
        if self.problem == MULTI:
            return tuple(map(_sigmoid, logits))
        most = max(logits)
        parts = [math.exp(each - most) for each in logits]
        total = sum(parts)
        return tuple(part / total for part in parts)

    def chosen(self, scores: Sequence[float]) -> str:
        """The label with the largest score, the first of equal ones."""
        return self.names[max(range(len(scores)), key=scores.__getitem__)]


def labels_of(config: Mapping[str, Any]) -> Labels:
    """The labels of a config.json with a classifier. Raises CheckpointError for what are none.

    `id2label` names them by the number of their logit; without it there are `num_labels` of LABEL_0, LABEL_1 ..., or
    two. `problem_type` is the problem; without it one label is one of many at once, and more are one in many.
    """
    names = _names(config)
    problem = config.get("problem_type")
    if problem is not None and problem not in PROBLEMS:
        raise CheckpointError(
            f"config.json: problem_type is {_shown(problem)}; {suggestion(str(problem)[:40], PROBLEMS)}"
        )
    if len(names) == 1 and problem != REGRESSION:
        return Labels(names, MULTI)
    return Labels(names, problem or SINGLE)


def _names(config: Mapping[str, Any]) -> tuple[str, ...]:
    told, count = config.get("id2label"), config.get("num_labels")
    if count is not None and (type(count) is not int or not 0 < count <= MOST_LABELS):
        raise CheckpointError(f"config.json: num_labels is {_shown(count)}, it must be 1 to {MOST_LABELS:,}")
    if told is None:
        return tuple(f"LABEL_{i}" for i in range(count or _BY_ITSELF))
    if not isinstance(told, Mapping) or not 0 < len(told) <= MOST_LABELS:
        raise CheckpointError(
            f"config.json: id2label is {_shown(told)}, it must be an object that names 1 to {MOST_LABELS:,} labels by "
            'their numbers, as {"0": "negative", "1": "positive"}'
        )
    if count is not None and count != len(told):
        raise CheckpointError(
            f"config.json: num_labels is {count} and id2label names {len(told)} labels; correct one of them"
        )
    by_number = {str(number): name for number, name in told.items()}
    for i in range(len(told)):
        if str(i) not in by_number:
            other = next(each for each in by_number if not each.isdecimal() or int(each) >= len(told))
            raise CheckpointError(
                f"config.json: id2label has no {str(i)!r} and has {other[:40]!r}; {len(told)} labels have the numbers "
                f"0 to {len(told) - 1}, which are the rows of the classifier"
            )
    names = [by_number[str(i)] for i in range(len(told))]
    for i, name in enumerate(names):
        if not isinstance(name, str) or not is_unicode(name):
            raise CheckpointError(f"config.json: id2label names {i} as {_shown(name)}, it must be text in Unicode")
    return tuple(names)


def _sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without a power that is too large for a float."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
