"""What a caller gets back, offline and over gRPC alike. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

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


@dataclass(frozen=True, slots=True)
class Usage:
    """completion_tokens counts every token that was made for the answer, the one that completed a stop included.

    tier_used: "" between two tiers, where a share was asked for.

    ffn_bytes_share, ffn_neurons_share: of the feed-forward layers' weights, what a token read by itself, router
    included, and of their neurons, what it computed; means over prompt and new tokens, None where the model has one
    tier only.
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
