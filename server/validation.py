"""From a GenerateRequest to what an engine is asked, or to the list of everything that is wrong with it."""

import asyncio
import re
from collections.abc import Mapping, Sequence

from ..engine.guided import check_constraint
from ..engine.request import Priority
from ..engine.settings import Asked, Terms, asked_of
from ..engine.standing import StandingSettings
from ..models.errors import InvalidRequest, Violation
from ..proto import generation_pb2 as pb
from .fields import fields_of
from .prompts import Prompts

PRIORITIES: Mapping[int, str] = {
    pb.Priority.Value(f"PRIORITY_{priority.name}"): priority.value for priority in Priority
}
MAX_REQUEST_ID_CHARACTERS = 64


async def checked(message: pb.GenerateRequest, prompts: Prompts, terms: Terms) -> Asked:
    """What the engine is asked. Raises InvalidRequest with all that is wrong, or Unsupported for a tier or a
    chat that the model does not have, and for a constraint where nothing is installed that follows one.
    """
    prompt_ids, wrong = await prompt_of(message, prompts, terms.limits.max_context)
    return await judged(message, prompt_ids, wrong, prompts, terms)


async def judged(
    message: pb.GenerateRequest, prompt_ids: Sequence[int], wrong: Sequence[Violation], prompts: Prompts, terms: Terms
) -> Asked:
    """The same of a prompt that is made into ids, with what is wrong with it."""
    asked = asked_of(
        prompt_ids,
        settings_of(message),
        terms,
        turn_end_ids=prompts.chat.end_ids if message.HasField("messages") else (),
        found=[*request_id_violations(message.request_id), *wrong],
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


def request_id_violations(request_id: str) -> list[Violation]:
    """What is wrong with the id of a request; empty is none."""
    if re.fullmatch(rf"[!-~]{{0,{MAX_REQUEST_ID_CHARACTERS}}}", request_id):
        return []
    rule = f"it must be at most {MAX_REQUEST_ID_CHARACTERS} printable ASCII characters without spaces"
    return [Violation("request_id", f"has {len(request_id)} characters, {rule}")]


async def prompt_of(
    message: pb.GenerateRequest, prompts: Prompts, window: int
) -> tuple[tuple[int, ...], list[Violation]]:
    """The ids. With a prompt that is wrong in itself, the other fields are judged as if it were one token."""
    try:
        return await prompts.ids(message, window), []
    except InvalidRequest as error:
        return (0,), [*error.violations]
