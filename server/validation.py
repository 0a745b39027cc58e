"""From a GenerateRequest to what an engine is asked, or to the list of everything that is wrong with it."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..engine.request import (
    Limits,
    Request,
    Sampling,
    Stopping,
    default_max_new_tokens,
    sampling_from_defaults,
    violations,
)
from ..engine.text import stop_string_violations
from ..models.chat import Message, message_violations
from ..models.dial import Dial
from ..models.errors import InvalidRequest, Violation
from ..models.tokenizer import Tokenizer
from ..proto import generation_pb2 as pb
from .chat import ServedChat

MAX_TEXT_BYTES = 1 << 20
MAX_REQUEST_ID_CHARACTERS = 64
_THREAD_FROM_CHARACTERS = 1 << 14  # tokenizing more than this would keep the other streams waiting


@dataclass(frozen=True, slots=True)
class Checked:
    """A request that can succeed. Its engine request has no key yet."""

    request: Request
    stop_strings: tuple[str, ...]
    tier: str


async def checked(
    message: pb.GenerateRequest,
    tokenizer: Tokenizer,
    chat: ServedChat,
    defaults: Mapping[str, float | int],
    limits: Limits,
    dial: Dial,
) -> Checked:
    """What the engine is asked. Raises InvalidRequest with all that is wrong, or Unsupported for a tier or a
    chat that the model does not have.
    """
    prompt_ids, wrong_prompt = await _prompt(message, tokenizer, chat)
    found = _request_id_violations(message.request_id) + wrong_prompt
    sampling = _sampling(message.sampling, defaults)
    stopping = _stopping(message.stopping, len(prompt_ids), limits)
    stop_strings = tuple(message.stopping.stop_strings)
    found += violations(prompt_ids, sampling, stopping, limits) + stop_string_violations(stop_strings)
    compute = message.compute
    share = compute.share if compute.HasField("share") else None
    point = dial.operating_point(compute.tier, share, "compute.", found)
    stopping = stopping.also_at(chat.end_ids if message.HasField("messages") else ())
    request = Request(0, prompt_ids, sampling, stopping, operating_point=point)
    return Checked(request, stop_strings, dial.name(point))


def _request_id_violations(request_id: str) -> list[Violation]:
    if re.fullmatch(rf"[!-~]{{0,{MAX_REQUEST_ID_CHARACTERS}}}", request_id):
        return []
    rule = f"it must be at most {MAX_REQUEST_ID_CHARACTERS} printable ASCII characters without spaces"
    return [Violation("request_id", f"has {len(request_id)} characters, {rule}")]


def _prompt_violations(message: pb.GenerateRequest) -> list[Violation]:
    if message.WhichOneof("prompt") is None:
        return [Violation("prompt", "is not set; give text, token_ids or messages", "EMPTY_PROMPT")]
    if message.HasField("messages"):
        return message_violations(message.messages.messages)
    size = len(message.text.encode())
    if size > MAX_TEXT_BYTES:
        rule = f"the limit is {MAX_TEXT_BYTES}; shorten it"
        return [Violation("prompt.text", f"has {size} bytes, {rule}", "PROMPT_TOO_LARGE")]
    return []


async def _prompt(
    message: pb.GenerateRequest, tokenizer: Tokenizer, chat: ServedChat
) -> tuple[tuple[int, ...], list[Violation]]:
    """The ids. With a prompt that is wrong in itself, the other fields are judged as if it were one token."""
    wrong = _prompt_violations(message)
    try:
        return ((0,), wrong) if wrong else (await _prompt_ids(message, tokenizer, chat), [])
    except InvalidRequest as error:  # the template refuses the messages
        return (0,), [*error.violations]


async def _prompt_ids(message: pb.GenerateRequest, tokenizer: Tokenizer, chat: ServedChat) -> tuple[int, ...]:
    if message.HasField("messages"):
        return await chat.prompt_ids([Message(each.role, each.content) for each in message.messages.messages])
    if message.HasField("token_ids"):
        return tuple(message.token_ids.ids)
    if len(message.text) < _THREAD_FROM_CHARACTERS:
        return tuple(tokenizer.encode(message.text))
    return tuple(await asyncio.to_thread(tokenizer.encode, message.text))


def _sampling(message: pb.Sampling, defaults: Mapping[str, float | int]) -> Sampling:
    return sampling_from_defaults(
        defaults,
        temperature=_decimal(message.temperature) if message.HasField("temperature") else None,
        top_k=message.top_k if message.HasField("top_k") else None,
        top_p=_decimal(message.top_p) if message.HasField("top_p") else None,
        min_p=_decimal(message.min_p) if message.HasField("min_p") else None,
        seed=message.seed if message.HasField("seed") else None,
    )


def _decimal(value: float) -> float:
    """The decimal that was typed: 0.7, where the float32 of the wire says 0.699999988."""
    return float(f"{value:.7g}")


def _stopping(message: pb.Stopping, num_prompt_tokens: int, limits: Limits) -> Stopping:
    given = message.HasField("max_new_tokens")
    return Stopping(
        max_new_tokens=message.max_new_tokens if given else default_max_new_tokens(num_prompt_tokens, limits),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
    )
