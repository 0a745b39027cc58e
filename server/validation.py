"""From a GenerateRequest to what an engine is asked, or to the list of everything that is wrong with it."""

import asyncio
import re
from collections.abc import Mapping

from ..engine.guided import check_constraint
from ..engine.request import Priority
from ..engine.settings import Asked, Terms, asked_of
from ..engine.standing import StandingSettings
from ..models.chat import Message, message_violations
from ..models.errors import InvalidRequest, Violation
from ..models.tokenizer import Tokenizer
from ..proto import generation_pb2 as pb
from .chat import ServedChat
from .fields import fields_of

PRIORITIES: Mapping[int, str] = {
    pb.Priority.Value(f"PRIORITY_{priority.name}"): priority.value for priority in Priority
}
MAX_TEXT_BYTES = 1 << 20
MAX_REQUEST_ID_CHARACTERS = 64
_THREAD_FROM_CHARACTERS = 1 << 14  # tokenizing more than this would keep the other streams waiting


async def checked(message: pb.GenerateRequest, tokenizer: Tokenizer, chat: ServedChat, terms: Terms) -> Asked:
    """What the engine is asked. Raises InvalidRequest with all that is wrong, or Unsupported for a tier or a
    chat that the model does not have, and for a constraint where nothing is installed that follows one.
    """
    prompt_ids, wrong = await _prompt(message, tokenizer, chat)
    asked = asked_of(
        prompt_ids,
        settings_of(message),
        terms,
        turn_end_ids=chat.end_ids if message.HasField("messages") else (),
        found=[*_request_id_violations(message.request_id), *wrong],
        compute_path="compute.",
    )
    if asked.request.constraint is not None:
        await asyncio.to_thread(check_constraint, asked.request.constraint)
    return asked


def settings_of(message: pb.GenerateRequest) -> dict[str, object]:
    """What was said of the generation, by the names of GenerationSettings; what is absent was left open."""
    parts = message.sampling, message.stopping, message.compute, message.token_rules, message.constraint
    said = {name: value for part in parts for name, value in fields_of(part).items()}
    said |= {name: value for name, value in fields_of(message).items() if name in StandingSettings.__annotations__}
    if "priority" in said:
        said["priority"] = PRIORITIES.get(message.priority, message.priority)
    if "choices" in said:
        said["choices"] = list(message.constraint.choices.texts)
    return {"stop" if name == "stop_strings" else name: value for name, value in said.items()}


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
