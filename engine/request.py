"""What an engine is asked and what it answers: token ids and numbers, no text, no tensors, no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from ..models.errors import Violation
from ..models.sentences import Pooling
from .constraint import Constraint
from .sampling import OPTIONS, Sampling, sampling_violations
from .token_rules import TokenRules, token_rule_violations

DEFAULT_MAX_NEW_TOKENS = 128
MAX_STOP_TOKEN_IDS = 64


@dataclass(frozen=True, slots=True)
class Stopping:
    """When a request ends. `stop_token_ids` come on top of the model's own end-of-text ids."""

    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False

    def also_at(self, token_ids: Sequence[int]) -> "Stopping":
        """The same with further end-of-text ids: those of a chat's turn."""
        return self if self.ignore_eos else replace(self, stop_token_ids=(*self.stop_token_ids, *token_ids))


class Priority(Enum):
    """Who goes first while requests wait; in this order."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to continue. `key` is the handle that its rows come back with; it is unique among the unfinished.

    operating_point: of the model's experts, on its dial: 0 is the full tier, a fraction lies between two. It is what
    new tokens are computed at; the prompt is computed at `prefill_point`, its first `num_full` tokens at the
    full tier. floor: the operating point to which the
    engine may go while others wait; None is not at all.
    arrived_seconds: when it reached whoever passes it on, on the monotonic clock; None is when the engine gets it.
    deadline_seconds: on the same clock, when its first token has lost its use.
    caller: those who wait are served in turn by caller. salt: only requests of the same salt share what they read.
    pooling: of a text that an encoder is to embed; classify: of one that a classifier is to read; what is said of new
    tokens then says nothing.
    distributions_at: places in a prompt whose log probabilities are asked for, 1 the second token, each above the one
    before: what the model foresaw there is told whole.
    """

    key: int
    prompt_ids: tuple[int, ...]
    sampling: Sampling = Sampling()
    stopping: Stopping = Stopping()
    arrived_seconds: float | None = None
    operating_point: float = 0.0
    token_rules: TokenRules = TokenRules()
    constraint: Constraint | None = None
    prefill_point: float = 0.0
    floor: float | None = None
    priority: Priority = Priority.NORMAL
    caller: str = ""
    salt: str = ""
    deadline_seconds: float | None = None
    pooling: Pooling | None = None
    num_full: int = 0
    distributions_at: tuple[int, ...] = ()
    classify: bool = False


class FinishReason(Enum):
    """Why a request ended. STOP_STRING is decided at the edge, where text is known. REFUSED is by its own rules, which
    leave no token that may come.
    """

    STOP_TOKEN = "stop_token"
    STOP_STRING = "stop_string"
    LENGTH = "length"
    CONTEXT_FULL = "context_full"
    EMBEDDED = "embedded"
    CLASSIFIED = "classified"
    EXPIRED = "expired"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds that a request spent waiting for a slot, in prefill and in decode."""

    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The log probability of a token; and of the likeliest that might have come, the likeliest first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """What one step gave to one answer. A stop token ends the answer and is not among `token_ids`.

    choice: which of a request's n answers. logprobs: of token_ids, where they were asked for; prompt_logprobs: of the
    prompt's tokens but the first, with the first row.

    timing comes with the first token and with the last row. shares: of the bytes that tiers govern and of
    the FFN's neurons, what this request's new tokens have used so far, a mean over them, or before there are any those
    of the prompt's last; None where the model has one tier only.
    cached_tokens: of the prompt, that were not computed again. operating_point: of the last new token that was
    computed, where a floor lets it differ from the one asked for. embedding: of a text that an encoder was given;
    logits: of the labels, by a classifier.
    distributions: with prompt_logprobs, of the places that were asked for: float32 of each entry of the vocabulary.
    """

    key: int
    token_ids: tuple[int, ...] = ()
    finish: FinishReason | None = None
    stop_token_id: int | None = None
    error: str = ""
    timing: Timing | None = None
    shares: tuple[float, float] | None = None
    choice: int = 0
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    cached_tokens: int = 0
    operating_point: float | None = None
    embedding: tuple[float, ...] = ()
    distributions: tuple[bytes, ...] = ()
    logits: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    """How full the engine is. At idle `free_slots == num_slots` and `free_blocks == num_blocks`."""

    num_slots: int
    free_slots: int
    running: int
    waiting: int
    num_blocks: int = 0
    free_blocks: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a model allows: ids below `vocab_size`, prompt plus new tokens within `max_context`. Where an encoder reads
    the prompt, that is a source of at most `max_source` tokens, and an answer has the context for itself, but for the
    token that it begins with.

    And its engine: `num_slots` answers at a time, all tokens of a request in the blocks of a cache of `cache_tokens`;
    None is no limit.
    """

    vocab_size: int
    max_context: int
    num_slots: int | None = None
    cache_tokens: int | None = None
    block_tokens: int = 1
    max_source: int | None = None

    def blocks(self, num_prompt: int, num_new: int, num_answers: int) -> int:
        """What a request takes at its longest: whole blocks of its prompt once, the others for each answer."""
        if self.max_source is not None:
            source = -(-num_prompt // self.block_tokens)
            return source + replace(self, max_source=None).blocks(1, num_new, num_answers)
        each = -(-min(num_prompt + num_new, self.max_context) // self.block_tokens)
        shared = num_prompt // self.block_tokens
        return shared + num_answers * (each - shared)


def default_max_new_tokens(num_prompt_tokens: int, limits: Limits) -> int:
    """What is made when the caller names no count: 128, or what the context still holds."""
    continued = num_prompt_tokens if limits.max_source is None else 1
    return max(1, min(DEFAULT_MAX_NEW_TOKENS, limits.max_context - continued))


def violations(
    prompt_ids: Sequence[int],
    sampling: Sampling,
    stopping: Stopping,
    limits: Limits,
    token_rules: TokenRules = TokenRules(),  # noqa: B008  # frozen
) -> list[Violation]:
    """Every field that makes this request impossible, each with its value, its limit and the way out."""
    return [
        *_prompt_violations(prompt_ids, stopping, limits),
        *sampling_violations(sampling),
        *_stopping_violations(stopping, limits),
        *_length_violations(sampling, stopping),
        *_room_violations(len(prompt_ids), sampling, stopping.max_new_tokens, limits),
        *token_rule_violations(token_rules, limits.vocab_size),
    ]


def _length_violations(sampling: Sampling, stopping: Stopping) -> list[Violation]:
    fits = sampling.min_new_tokens <= max(stopping.max_new_tokens, 1)
    if fits or not OPTIONS["min_new_tokens"].holds(sampling.min_new_tokens):
        return []
    rule = f"it must be at most max_new_tokens, {stopping.max_new_tokens}"
    return [Violation("sampling.min_new_tokens", f"is {sampling.min_new_tokens}, {rule}")]


def _room_violations(num_prompt: int, sampling: Sampling, num_new: int, limits: Limits) -> list[Violation]:
    """What no engine of this size could ever run; of one answer the context is the limit."""
    name = "num_beams" if sampling.num_beams > 1 else "n"
    num_answers, field = getattr(sampling, name), f"sampling.{name}"
    if num_answers == 1 or not OPTIONS[name].holds(num_answers) or num_new < 1:
        return []
    if limits.num_slots is not None and num_answers > limits.num_slots:
        message = f"is {num_answers}, and {limits.num_slots} answers run at a time; ask for fewer, or raise num_slots"
        return [Violation(field, message, "TOO_FEW_SLOTS")]
    if sampling.num_beams > 1:  # which share nothing once they are computed again
        blocks = num_answers * limits.blocks(num_prompt, num_new, 1)
    else:
        blocks = limits.blocks(num_prompt, num_new, num_answers)
    if limits.cache_tokens is None or blocks * limits.block_tokens <= limits.cache_tokens:
        return []
    message = (
        f"is {num_answers}: answers of {num_new} tokens behind a prompt of {num_prompt} take "
        f"{blocks * limits.block_tokens} tokens of the cache, which holds {limits.cache_tokens}; ask for fewer or "
        "shorter ones, or raise kv_memory"
    )
    return [Violation(field, message, "CACHE_TOO_SMALL")]


def _prompt_violations(prompt_ids: Sequence[int], stopping: Stopping, limits: Limits) -> list[Violation]:
    if not prompt_ids:
        message = "is empty and the tokenizer has no begin token to start from; give at least one token"
        return [Violation("prompt", message, "EMPTY_PROMPT")]
    judged = prompt_ids[: limits.max_context]  # of more none is looked at: they are too many
    bad = next((i for i, token in enumerate(judged) if not 0 <= token < limits.vocab_size), None)
    if bad is not None:
        message = f"token {prompt_ids[bad]} at index {bad} is outside the {limits.vocab_size} ids of the vocabulary"
        return [Violation("prompt.token_ids", message, "TOKEN_OUT_OF_VOCABULARY")]
    if limits.max_source is not None:
        return _source_violations(len(prompt_ids), stopping.max_new_tokens, limits.max_source, limits.max_context)
    total = len(prompt_ids) + max(stopping.max_new_tokens, 0)
    if total <= limits.max_context:
        return []
    fits_at_all = len(prompt_ids) < limits.max_context
    message = (
        f"{len(prompt_ids)} prompt tokens and {stopping.max_new_tokens} new ones make {total}, the context holds "
        f"{limits.max_context}; shorten the prompt{' or lower max_new_tokens' if fits_at_all else ''}"
    )
    counts = {
        "prompt_tokens": str(len(prompt_ids)),
        "max_new_tokens": str(stopping.max_new_tokens),
        "limit": str(limits.max_context),
    }
    return [Violation("prompt", message, "CONTEXT_LENGTH_EXCEEDED", counts)]


def _source_violations(num_source: int, num_new: int, max_source: int, max_context: int) -> list[Violation]:
    """What is too long of a prompt that an encoder reads, and of its answer."""
    found = []
    if num_source > max_source:
        message = f"has {num_source} tokens, the encoder reads {max_source} at most; shorten it"
        counts = {"prompt_tokens": str(num_source), "limit": str(max_source)}
        found.append(Violation("prompt", message, "CONTEXT_LENGTH_EXCEEDED", counts))
    if num_new > max_context - 1:
        message = f"is {num_new}, an answer holds {max_context - 1} tokens at most; lower it"
        found.append(Violation("stopping.max_new_tokens", message))
    return found


def _stopping_violations(stopping: Stopping, limits: Limits) -> list[Violation]:
    found = []
    if stopping.max_new_tokens < 1:
        found.append(Violation("stopping.max_new_tokens", f"is {stopping.max_new_tokens}, it must be at least 1"))
    if len(stopping.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        message = f"has {len(stopping.stop_token_ids)} entries, the limit is {MAX_STOP_TOKEN_IDS}"
        found.append(Violation("stopping.stop_token_ids", message))
    bad = [token for token in stopping.stop_token_ids if not 0 <= token < limits.vocab_size]
    if bad:
        message = f"{bad[0]} is outside the vocabulary of {limits.vocab_size} ids"
        found.append(Violation("stopping.stop_token_ids", message))
    return found
