"""What the text of an answer must be, as it is asked for: JSON by a schema, a regex, a grammar, one of some texts."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from ..models.errors import Violation

MOST_CHOICES = 1000
MOST_BYTES = 1 << 16  # of all texts of a constraint


@dataclass(frozen=True, slots=True)
class Constraint:
    """kind: json_schema, regex, grammar or choices. texts: one, or of choices all."""

    kind: str
    texts: tuple[str, ...]


class ConstraintSettings(TypedDict, total=False):
    """The same as it may be asked for, one of them. json_schema: text or what json reads from it. grammar: Lark's."""

    json_schema: str | Mapping[str, Any] | None
    regex: str | None
    grammar: str | None
    choices: Sequence[str] | None


KINDS = tuple(ConstraintSettings.__annotations__)


def constraint_of(settings: Mapping[str, Any]) -> Constraint | None:
    """The first that was asked for; `constraint_violations` refuses a second one."""
    for kind in KINDS:
        value = settings.get(kind)
        if value is not None:
            return Constraint(kind, tuple(value) if kind == "choices" else (as_text(value),))
    return None


def as_text(value: str | Mapping[str, Any]) -> str:
    """A schema as it travels."""
    return value if isinstance(value, str) else json.dumps(value)


def constraint_violations(settings: Mapping[str, Any]) -> list[Violation]:
    """What is wrong with it before a library reads it: two at once, none to choose from, too much text."""
    asked = [kind for kind in KINDS if settings.get(kind) is not None]
    if len(asked) > 1:
        return [Violation(f"constraint.{asked[1]}", f"comes with {asked[0]}; an answer follows one of them")]
    constraint = constraint_of(settings)
    if constraint is None:
        return []
    field, texts = f"constraint.{constraint.kind}", constraint.texts
    if constraint.kind == "choices" and not 0 < len(texts) <= MOST_CHOICES:
        return [Violation(field, f"has {len(texts)} entries, it must have 1 to {MOST_CHOICES}")]
    size = sum(len(text.encode(errors="replace")) for text in texts)
    if size > MOST_BYTES:
        return [Violation(field, f"has {size} bytes, the limit is {MOST_BYTES}; make it smaller")]
    if not all(texts):
        return [Violation(field, "is empty; leave it out for an answer that is free")]
    return []
