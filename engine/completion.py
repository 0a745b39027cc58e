"""What a caller gets back, offline and over gRPC alike. No torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TypedDict

from ..models.errors import Violation
from .request import FinishReason, Timing


class GenerationSettings(TypedDict, total=False):
    """What may be asked of a generation, by name. What is left open comes from the model's generation_config.

    temperature: 0 is greedy. seed: makes the draws repeatable. stop: strings that end the answer, which ends before
    them. tier: how much of the feed-forward layers to spend, by name; or share: the part of their bytes that a token
    shall read, 1 or less, down to that of the lowest tier.
    """

    max_new_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    seed: int | None
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    tier: str | None
    share: float | None


def type_violations(settings: Mapping[str, object]) -> list[Violation]:
    """Settings that are not even of the right type, as a program may hand them over."""
    found = []
    for name, (is_right, wanted) in _TYPES.items():
        value = settings.get(name)
        if value is not None and not is_right(value):
            found.append(Violation(name, f"is {value!r}, it must be {wanted}"))
    return found


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False
    return True


def _are_strings(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, Sequence) and all(isinstance(item, str) for item in value))


def _are_whole(value: object) -> bool:
    return isinstance(value, Sequence) and all(_is_whole(item) for item in value)


_TYPES: dict[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(("max_new_tokens", "top_k", "seed"), (_is_whole, "a whole number")),
    **dict.fromkeys(("temperature", "top_p", "min_p", "share"), (_is_number, "a number")),
    "tier": (lambda value: isinstance(value, str), "the name of a tier"),
    "stop": (_are_strings, "a string or a list of strings"),
    "stop_token_ids": (_are_whole, "a list of whole numbers"),
    "ignore_eos": (lambda value: isinstance(value, bool), "True or False"),
}


@dataclass(frozen=True, slots=True)
class Usage:
    """completion_tokens counts every token that was made for the answer, the one that completed a stop included.

    tier_used: "" between two tiers, where a share was asked for.

    ffn_bytes_share, ffn_neurons_share: of the feed-forward layers' weights, what a token read, router included, by
    itself or with step_share together with the rows beside it, and of their neurons, what it computed; means over
    prompt and new tokens, None where the model has one tier only.
    """

    prompt_tokens: int
    completion_tokens: int
    tier_used: str = "full"
    ffn_bytes_share: float | None = None
    ffn_neurons_share: float | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer. `matched` is the stop string, or the id of the stop token, that ended it."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    timing: Timing
    matched: str | int | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer; the last one carries finish_reason, usage and timing."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timing: Timing | None = None
    matched: str | int | None = None
