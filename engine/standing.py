"""How a request stands to those beside it: who goes first, until when it counts, with whom it shares. No torch."""

from collections.abc import Mapping
from typing import Any, TypedDict

from ..models.bounds import Bound
from ..models.errors import Violation
from .request import Priority

PRIORITIES = tuple(priority.value for priority in Priority)
MAX_SALT_CHARACTERS = 64
FIRST_TOKEN_SECONDS = Bound(0, 1e9, whole=False, above=True)


class StandingSettings(TypedDict, total=False):
    """priority: "high", "normal" or "low"; the higher goes first while requests wait.

    cache_salt: only requests of the same salt share what was computed of a prompt's beginning. first_token_seconds: the
    request is dropped, before it costs anything, once its first token cannot be there in so many seconds.
    """

    priority: str | None
    cache_salt: str | None
    first_token_seconds: float | None


def priority_of(said: Mapping[str, Any]) -> Priority:
    """Normal where nothing was said."""
    return Priority(said.get("priority") or Priority.NORMAL)


def standing_violations(said: Mapping[str, Any]) -> list[Violation]:
    """What is wrong with settings of the right types."""
    found = []
    salt, seconds = said.get("cache_salt") or "", said.get("first_token_seconds")
    if len(salt) > MAX_SALT_CHARACTERS:
        message = f"has {len(salt)} characters, the limit is {MAX_SALT_CHARACTERS}"
        found.append(Violation("cache_salt", message))
    if seconds is not None and not FIRST_TOKEN_SECONDS.holds(seconds):
        rule = f"it must be {FIRST_TOKEN_SECONDS.rule}; leave it out to wait as long as it takes"
        found.append(Violation("first_token_seconds", f"is {seconds}, {rule}"))
    return found
