"""What a caller gets back, offline and over gRPC alike. No torch."""

from dataclasses import dataclass

from .request import FinishReason, Timing


@dataclass(frozen=True, slots=True)
class Usage:
    """completion_tokens counts every token that was made for the answer, the one that completed a stop included.

    tier_used: "" between two tiers, where a share was asked for.

    ffn_bytes_share, ffn_neurons_share: of the feed-forward layers' weights, what a token read, router included, by
    itself or with step_share together with the rows beside it, and of their neurons, what it computed; means over
    the new tokens that were computed, None where the model has one tier only. A prompt is read at the full tier.
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
