"""Every field of OpenAI's requests: what it becomes here, or why it is refused. docs/http.md has it as a table."""

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from ...models.errors import Violation
from ...models.suggestion import suggestion
from ..status import MAX_VIOLATIONS, cut

SAMPLING = ("temperature", "top_p", "n", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "stop")
OF_OTHER_SERVERS = (
    "top_k", "min_p", "typical_p", "repetition_penalty", "stop_token_ids", "ignore_eos", "min_tokens",
)  # fmt: skip
OURS = (
    "tier", "share", "floor_tier", "floor_share", "prefill_tier", "priority", "cache_salt", "first_token_seconds",
    "regex", "grammar", "choices", "allowed_token_ids", "banned_token_ids",
)  # fmt: skip
COMMON = (
    *SAMPLING, *OF_OTHER_SERVERS, "model", "max_tokens", "stream", "stream_options", "service_tier", "response_format",
    "logprobs", "moesaic",
)  # fmt: skip
OURS_OF_EMBEDDINGS = ("pooling", "normalised", "truncate", "priority", "tier")
OURS_OF_CLASSIFICATION = ("truncate", "priority")
OF_DOORS = {
    "completion": (*COMMON, "prompt"), "chat": (
        *COMMON, "messages", "max_completion_tokens", "top_logprobs", "tools", "tool_choice", "parallel_tool_calls",
    ),
    "embedding": ("model", "input", "encoding_format", "moesaic"),
    "classification": ("model", "input", "moesaic"),
}  # fmt: skip
NAMES = {"max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens", "min_tokens": "min_new_tokens"}

_MOST_NAME_CHARACTERS = 64  # of a name that is told back
LABELS = ("user", "metadata", "safety_identifier", "prompt_cache_key")  # for bookkeeping; no answer depends on them
_WAYS_OUT = {
    "tools": "they are part of a chat; ask at /v1/chat/completions",
    "functions": "the newer name of it is tools",
    "reasoning_effort": "how much is computed is said by service_tier or moesaic.share",
    "dimensions": "a vector has as many numbers as the model has; cut it, and bring it to length 1 again",
    "echo": "put the prompt in front of the answer yourself",
    "best_of": "ask for n answers with their logprobs",
}
# What clients send by habit, and the values with which it asks for nothing; null is always one.
NOTHING: Mapping[str, tuple[object, ...]] = {
    "tools": ([],), "tool_choice": ("none", "auto"), "functions": ([],), "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False), "store": (False,), "modalities": (["text"],), "audio": (), "prediction": (),
    "verbosity": ("medium",), "reasoning_effort": (), "web_search_options": (), "best_of": (1,), "echo": (False,),
    "suffix": ("",), "dimensions": (),
}  # fmt: skip


def field_violations(body: Mapping[str, Any], door: str) -> list[Violation]:
    """What the names of a request say that is not done here; of very many the first."""
    return [*islice(_violations(body, door), MAX_VIOLATIONS)]


def _violations(body: Mapping[str, Any], door: str) -> Iterator[Violation]:
    known = OF_DOORS[door]
    for name, value in body.items():
        if name in known or name in LABELS:
            continue
        if name not in NOTHING:
            yield _unknown(name, "", known)
        elif value is not None and not any(type(value) is type(each) and value == each for each in NOTHING[name]):
            way_out = _WAYS_OUT.get(name, "leave it out")
            yield Violation(name, f"asks for what is not done here; {way_out}", "UNSUPPORTED_FIELD")


def known_keys(value: object, field: str, known: tuple[str, ...]) -> tuple[Mapping[str, Any], list[Violation]]:
    """The keys of an object that there are, without null, and what is wrong with the others."""
    if value is None:
        return {}, []
    if not isinstance(value, Mapping):
        return {}, [Violation(field, f"is of type {type(value).__name__}, it must be an object")]
    unknown = islice((key for key in value if key not in known), MAX_VIOLATIONS)
    wrong = [_unknown(key, f"{field}.", known) for key in unknown]
    return {key: each for key, each in value.items() if key in known and each is not None}, wrong


def _unknown(name: str, place: str, known: tuple[str, ...]) -> Violation:
    """JSON can say names that no text can: half of a surrogate pair."""
    short = cut(name, _MOST_NAME_CHARACTERS)
    return Violation(f"{place}{short}", f"there is no such field; {suggestion(short, known)}", "UNKNOWN_FIELD")
