"""What a caller gets back, offline and over gRPC alike. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..models.errors import Expired, InvalidRequest, RequestFailed, Violation
from .request import FinishReason, Request, Row, Timing, TokenLogprobs

_TOO_LATE = "the first token could not be there in the time that was given, so nothing was computed; give it more time"


def check_row(row: Row, request: Request) -> None:
    """Raises what ended the request without an answer: RequestFailed where the engine failed on it, Expired where its
    first token would come too late, InvalidRequest where its own rules leave no token.
    """
    if row.finish is FinishReason.FAILED:
        raise RequestFailed(f"the engine failed on this request: {row.error}")
    if row.finish is FinishReason.EXPIRED:
        raise Expired(_TOO_LATE)
    if row.finish is FinishReason.REFUSED:
        field = "token_rules" if request.constraint is None else "constraint"
        raise InvalidRequest([Violation(field, f"cannot be followed any further: {row.error}", "NO_TOKEN_LEFT")])


@dataclass(frozen=True, slots=True)
class Usage:
    """A receipt: what was asked for beside what was done.

    completion_tokens counts every token that was made for all answers, those that completed a stop included.
    cached_prompt_tokens: of the prompt's, those that were not computed again.

    tier_asked: "" between two tiers, where a share was asked for. tier_used: of the new tokens; "" between two tiers,
    or where a floor let it change on the way.

    bytes_share, neurons_share: of the feed-forward layers' weights, what a token read, router included, by
    itself or with step_share together with the rows beside it, and of their neurons, what it computed; means over
    the new tokens that were computed, None where the model has one tier only.

    weight_bytes_per_token: what a new token reads of the weights where it is computed alone, that share of the
    feed-forward layers and all of attention, head and norms; None where the engine does not say.
    """

    prompt_tokens: int
    completion_tokens: int
    tier_used: str = "full"
    bytes_share: float | None = None
    neurons_share: float | None = None
    tier_asked: str = "full"
    cached_prompt_tokens: int = 0
    weight_bytes_per_token: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One of n answers to a prompt. `matched` is the stop string, or the id of the stop token, that ended it.

    logprobs: of token_ids, where they were asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    matched: str | int | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer, as in `Answer`. others: where n were asked for, those after the first; usage counts all.

    prompt_logprobs: of the prompt's tokens but the first, where they were asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    timing: Timing
    matched: str | int | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    others: tuple[Answer, ...] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """A text that was read. logprobs: in nats, of token_ids, which are all of the text's but the first."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    timing: Timing

    @classmethod
    def of(cls, told: Sequence[TokenLogprobs], timing: Timing) -> "Scored":
        """The same of what an engine told of a prompt."""
        return cls(tuple(each.token_id for each in told), tuple(each.logprob for each in told), timing)

    @property
    def total(self) -> float:
        """The log probability of the text behind its first token."""
        return sum(self.logprobs)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer. The last one of an answer carries finish_reason, the last of all usage and timing.

    choice: which of n answers. logprobs: of token_ids. prompt_logprobs: with the first piece.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timing: Timing | None = None
    matched: str | int | None = None
    choice: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()


def joined(chunks: Sequence[Chunk]) -> Completion:
    """The whole of what came in pieces, all its answers."""
    choices = sorted({chunk.choice for chunk in chunks})
    first, *others = ([chunk for chunk in chunks if chunk.choice == choice] for choice in choices)
    whole, last = _answer(first), chunks[-1]
    usage, timing, prompt = last.usage or Usage(0, 0), last.timing or Timing(), chunks[0].prompt_logprobs
    return Completion(
        whole.text, whole.token_ids, whole.finish_reason, usage, timing, whole.matched, whole.logprobs, prompt,
        tuple(_answer(each) for each in others),
    )  # fmt: skip


def _answer(chunks: Sequence[Chunk]) -> Answer:
    last = chunks[-1]
    return Answer(
        "".join(chunk.text for chunk in chunks),
        tuple(token for chunk in chunks for token in chunk.token_ids),
        last.finish_reason or FinishReason.LENGTH,
        last.matched,
        tuple(each for chunk in chunks for each in chunk.logprobs),
    )
