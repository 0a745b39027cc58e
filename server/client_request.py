"""A GenerateRequest from Python values; what does not fit the wire is refused here as the server would."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

from google.protobuf.message import Message

from ..engine.constraint import constraint_of, constraint_violations
from ..engine.request import Priority
from ..engine.sampling import OPTIONS, SamplingSettings, option_violations
from ..engine.settings import GenerationSettings, rightly_typed
from ..models.chat import messages_of
from ..models.dial import BOTH
from ..models.errors import InvalidRequest, Violation
from ..models.suggestion import suggestion
from ..proto import generation_pb2 as pb

MAX_REQUEST_BYTES = 4 << 20

Prompt = str | Sequence[int]


@dataclass(frozen=True, slots=True)
class Chat:
    """A prompt that is a conversation: {"role": text, "content": text} mappings, the oldest first.

    tools: what may be called, each a JSON object.
    """

    messages: object
    tools: Sequence[str] = ()


class Settings(GenerationSettings, total=False):
    """The same and, for a server, model: the name of a served one ("" is the only one); request_id: at most 64
    characters, made up when empty.
    """

    model: str
    request_id: str


def build_request(
    prompt: Prompt | Chat,
    *,
    model: str = "",
    max_new_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    stop_token_ids: Sequence[int] = (),
    ignore_eos: bool = False,
    tier: str | None = None,
    share: float | None = None,
    floor_tier: str | None = None,
    floor_share: float | None = None,
    prefill_tier: str | None = None,
    priority: str | None = None,
    cache_salt: str | None = None,
    first_token_seconds: float | None = None,
    request_id: str = "",
    logit_bias: Mapping[int, float] | None = None,
    allowed_token_ids: Sequence[int] | None = None,
    banned_token_ids: Sequence[int] | None = None,
    json_schema: str | Mapping[str, Any] | None = None,
    regex: str | None = None,
    grammar: str | None = None,
    choices: Sequence[str] | None = None,
    **sampling: Unpack[SamplingSettings],
) -> pb.GenerateRequest:
    """The message. Raises InvalidRequest with every value that does not fit its field, TypeError for unknown names."""
    _check_names(sampling)
    request = pb.GenerateRequest(sampling=pb.Sampling(), stopping=pb.Stopping())
    found: list[Violation] = []
    _put(request, {"model": model, "request_id": request_id}, "", found)
    _put(request.sampling, _carried(_fitting(sampling, "sampling.", found), found), "sampling.", found)
    stopping = {"max_new_tokens": max_new_tokens, "ignore_eos": ignore_eos}
    _put(request.stopping, _fitting(stopping, "stopping.", found), "stopping.", found)
    floor = {"floor_tier": floor_tier, "floor_share": floor_share}
    _put_compute(request.compute, {"tier": tier, "share": share, **floor, "prefill_tier": prefill_tier}, found)
    seconds = {"first_token_seconds": first_token_seconds}
    _put_standing(request, {"priority": priority, "cache_salt": cache_salt, **seconds}, found)
    stops = {"stop_strings": [stop] if isinstance(stop, str) else stop, "stop_token_ids": stop_token_ids}
    _extend(request.stopping, stops, "stopping.", found)
    ids = {"allowed_token_ids": allowed_token_ids, "banned_token_ids": banned_token_ids}
    _put_rules(request.token_rules, {"logit_bias": logit_bias, **ids}, found)
    kinds = {"json_schema": json_schema, "regex": regex, "grammar": grammar, "choices": choices}
    _put_constraint(request.constraint, kinds, found)
    _put_prompt(request, prompt, found)
    size = request.ByteSize()
    if size > MAX_REQUEST_BYTES:
        found.append(Violation("prompt", f"makes a request of {size} bytes, the limit is {MAX_REQUEST_BYTES}"))
    if found:
        raise InvalidRequest(found)
    return request


def _check_names(sampling: Mapping[str, object]) -> None:
    """Raises TypeError for names that no setting has, as Python does for unknown keywords."""
    for name in sampling:
        if name not in OPTIONS:
            raise TypeError(f"there is no setting {name!r}; {suggestion(name, [*Settings.__annotations__])}")


def _fitting(values: Mapping[str, object], path: str, found: list[Violation]) -> Mapping[str, object]:
    """The values of the right type, as the offline engine judges it."""
    right, wrong = rightly_typed(values)
    found += [replace(each, field=path + each.field) for each in wrong]
    return right


def _carried(sampling: Mapping[str, object], found: list[Violation]) -> Mapping[str, object]:
    """The values that their fields can carry; rules say what is wrong with the others. The server judges all else."""
    wrong = option_violations({name: value for name, value in sampling.items() if OPTIONS[name].kind is int})
    found += wrong
    return {name: value for name, value in sampling.items() if f"sampling.{name}" not in {each.field for each in wrong}}


def _put_rules(message: pb.TokenRules, rules: Mapping[str, object], found: list[Violation]) -> None:
    right = _fitting(rules, "token_rules.", found)
    _extend(message, {name: right[name] or () for name in right if name != "logit_bias"}, "token_rules.", found)
    bias: Any = right.get("logit_bias") or {}
    try:
        message.logit_bias.update({token: float(number) for token, number in bias.items()})
    except (TypeError, ValueError) as error:
        found.append(_misfit("token_rules.logit_bias", bias, error))


def _put_compute(message: pb.Compute, values: Mapping[str, object], found: list[Violation]) -> None:
    """The wire holds a tier or a share, so that both are refused here."""
    right = _fitting(values, "compute.", found)
    for name in ("", "floor_"):
        if right.get(f"{name}tier") and right.get(f"{name}share") is not None:
            found.append(Violation(f"compute.{name}share", BOTH))
    _put(message, right, "compute.", found)


def _put_standing(request: pb.GenerateRequest, values: Mapping[str, object], found: list[Violation]) -> None:
    right = _fitting(values, "", found)
    priority = right.get("priority")
    number = None if priority is None else pb.Priority.Value(f"PRIORITY_{Priority(priority).name}")
    _put(request, {**right, "priority": number}, "", found)


def _put_constraint(message: pb.Constraint, kinds: Mapping[str, object], found: list[Violation]) -> None:
    """The wire holds one of them, so what is wrong between them is said here."""
    right: Any = _fitting(kinds, "constraint.", found)
    wrong = constraint_violations(right)
    found += wrong
    constraint = None if wrong else constraint_of(right)
    if constraint is None:
        return
    if constraint.kind == "choices":
        _extend(message.choices, {"texts": constraint.texts}, "constraint.choices.", found)
    else:
        _put(message, {constraint.kind: constraint.texts[0]}, "constraint.", found)


def _put_prompt(request: pb.GenerateRequest, prompt: Prompt | Chat, found: list[Violation]) -> None:
    if isinstance(prompt, Chat):
        messages, wrong = messages_of(prompt.messages)
        found += wrong
        request.messages.SetInParent()
        for i, message in enumerate(messages):
            added = request.messages.messages.add(role=message.role, content=message.content)
            for call in message.tool_calls:
                values = {"name": call.name, "arguments": call.arguments}
                _put(added.tool_calls.add(), values, f"prompt.messages[{i}].tool_calls.", found)
        _extend(request.messages, {"tools": prompt.tools}, "prompt.messages.", found)
    elif isinstance(prompt, str):
        _put(request, {"text": prompt}, "prompt.", found)
    else:
        request.token_ids.SetInParent()
        _extend(request.token_ids, {"ids": prompt}, "prompt.token_", found)


def _put(message: Message, values: Mapping[str, object], path: str, found: list[Violation]) -> None:
    for name, value in values.items():
        try:
            if value is not None:
                setattr(message, name, value)
        except (TypeError, ValueError) as error:
            found.append(_misfit(path + name, value, error))


def _extend(message: Message, values: Mapping[str, Any], path: str, found: list[Violation]) -> None:
    for name, value in values.items():
        try:
            getattr(message, name).extend(value)
        except (TypeError, ValueError) as error:
            found.append(_misfit(path + name, value, error))


def _misfit(field: str, value: object, error: Exception) -> Violation:
    """Numbers are quoted, texts are not: they may be prompts."""
    if isinstance(error, UnicodeError):
        return Violation(field, "cannot be written as UTF-8")
    if isinstance(value, int | float):
        return Violation(field, f"is {value!r}, which its field cannot hold")
    return Violation(field, "holds a value that its field cannot hold: a negative, a too large or a wrong kind of one")
