"""From a text's token ids to what an engine of an encoder is asked, for `LLM` and server. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..models.errors import InvalidRequest, Unsupported, Violation
from ..models.sentences import POOLINGS, Pooling
from ..models.suggestion import suggestion
from ..models.tokenizer import Tokenizer
from .request import Limits, Priority, Request

ALL_TOKENS = 1 << 24  # a window for texts that are to be cut, and so must be made into tokens whole


@dataclass(frozen=True, slots=True)
class Embedded:
    """The vector of a text. num_tokens: that were read; truncated: whether the text had more."""

    values: tuple[float, ...]
    num_tokens: int
    truncated: bool = False


def pooling_of(asked: str | None, normalised: bool | None, own: Pooling) -> Pooling:
    """What was asked for, the model's own where nothing was. Raises InvalidRequest for a pooling that is none."""
    if asked and asked not in POOLINGS:
        raise InvalidRequest([Violation("pooling", f"is {asked[:40]!r}; {suggestion(asked[:40], POOLINGS)}")])
    return Pooling(asked or own.kind, own.normalised if normalised is None else normalised)


def encoder_pooling(pooling: Pooling | None, family: str) -> Pooling:
    """The pooling of an encoder. Raises Unsupported for a model that is none."""
    if pooling is None:
        raise Unsupported(f"{family} continues text and makes no embeddings; ask a model of an encoder, such as minilm")
    return pooling


def embed_request(
    ids: Sequence[int],
    pooling: Pooling,
    limits: Limits,
    operating_point: float = 0.0,
    priority: Priority = Priority.NORMAL,
) -> Request:
    """What the engine is asked. Raises InvalidRequest for a text that it cannot read."""
    check_text(ids, limits)
    return Request(0, tuple(ids), operating_point=operating_point, priority=priority, pooling=pooling)


def check_text(ids: Sequence[int], limits: Limits) -> None:
    """Raises InvalidRequest for a text that no encoder of these limits can read."""
    if found := _violation(ids, limits):
        raise InvalidRequest([found])


def to_read(ids: Sequence[int], tokenizer: Tokenizer | None, window: int | None) -> tuple[int, ...]:
    """The ids that are read of a text: none where it makes no token of its own, and no more than a window holds, with
    those that the tokenizer puts behind a text.

    tokenizer: None for ids that are taken as they are. window: None where nothing is to be cut.
    """
    if tokenizer is not None and tuple(ids) == tokenizer.no_text:
        return ()
    if window is None or len(ids) <= window:
        return tuple(ids)
    ends = min(tokenizer.num_ends if tokenizer else 0, window - 1)
    return (*ids[: window - ends], *ids[len(ids) - ends :])


def _violation(ids: Sequence[int], limits: Limits) -> Violation | None:
    if not ids:
        message = "makes no token of its own; give a text that is not empty, or at least one token"
        return Violation("input", message, "EMPTY_PROMPT")
    if len(ids) > limits.max_context:
        message = f"has {len(ids)} tokens, the window holds {limits.max_context}; shorten it, or ask for truncate"
        return Violation("input", message, "CONTEXT_LENGTH_EXCEEDED", {"limit": str(limits.max_context)})
    bad = next((i for i, token in enumerate(ids) if not 0 <= token < limits.vocab_size), None)
    if bad is None:
        return None
    message = f"token {ids[bad]} at index {bad} is outside the {limits.vocab_size} ids of the vocabulary"
    return Violation("input.token_ids", message, "TOKEN_OUT_OF_VOCABULARY")
