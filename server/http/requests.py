"""From the JSON of OpenAI's requests to the message that gRPC brings, or to the list of all that is wrong with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...engine.constraint import KINDS
from ...engine.settings import rightly_typed
from ...models.chat import Message
from ...models.errors import InvalidRequest, Violation
from ...proto import generation_pb2 as pb
from ..client_request import Chat, Prompt, build_request
from .body import nested_too_deep
from .errors import as_sent
from .fields import NAMES, OF_OTHER_SERVERS, OURS, SAMPLING, field_violations, known_keys
from .messages import messages_in
from .tools import Tools, tools_of

_PRIORITIES = {"flex": "low", "priority": "high"}  # of service_tier
_USUAL = ("auto", "default")
_STREAM_OPTIONS = ("include_usage", "continuous_usage_stats", "include_obfuscation")


@dataclass(frozen=True, slots=True)
class Asking:
    """What a request asks. names: of fields as the caller wrote them, by ours.

    usage: whether a stream ends with what was used. counting: whether each of its parts says so. tools: that may be
    called.
    """

    message: pb.GenerateRequest
    chat: bool
    names: Mapping[str, str]
    stream: bool = False
    usage: bool = False
    counting: bool = False
    tools: Tools = Tools()  # noqa: RUF009  # frozen

    def told(self, error: InvalidRequest) -> InvalidRequest:
        """What is wrong, by the caller's names."""
        return as_sent(error, self.names)


def asking_of(body: Mapping[str, Any], chat: bool, request_id: str) -> Asking:
    """What a body asks. Raises InvalidRequest with every field that is wrong."""
    try:
        return _asking_of(body, chat, request_id)
    except RecursionError:  # what could be parsed may be too deep to be written again
        raise nested_too_deep() from None


def _asking_of(body: Mapping[str, Any], chat: bool, request_id: str) -> Asking:
    reading = _Reading(body, chat)
    settings = reading.settings()
    options = reading.stream_options()
    prompt = reading.prompt()
    message = reading.built(prompt, settings, request_id)
    if reading.wrong or message is None:
        raise InvalidRequest(reading.wrong)
    stream = bool(body.get("stream"))
    return Asking(
        message, chat, reading.names, stream, bool(options.get("include_usage")),
        stream and bool(options.get("continuous_usage_stats")), reading.tools,
    )  # fmt: skip


class _Reading:
    """One body, and what was found wrong with it so far."""

    def __init__(self, body: Mapping[str, Any], chat: bool) -> None:
        self._body, self._chat = body, chat
        self.tools = Tools()
        self.wrong = [*field_violations(body, "chat" if chat else "completion")]
        prompt = "messages" if chat else "prompt"
        self.names = {
            "prompt": prompt, "text": "prompt", "token_ids": "prompt", "max_new_tokens": "max_tokens",
            "min_new_tokens": "min_tokens", "stop_strings": "stop",
            "request_id": "x-request-id", "json_schema": "response_format",
            **({"logprobs": "top_logprobs"} if chat else {}), **{name: f"moesaic.{name}" for name in OURS},
        }  # fmt: skip

    def settings(self) -> dict[str, Any]:
        """By the names of GenerationSettings; what is of a wrong type is left out."""
        body = self._body
        said = {NAMES.get(name, name): body[name] for name in (*SAMPLING, *OF_OTHER_SERVERS) if name in body}
        said |= self._length() | self._ours() | self._logprobs() | self._response_format()
        if isinstance(said.get("logit_bias"), Mapping):
            said["logit_bias"] = {_number(token): bias for token, bias in said["logit_bias"].items()}
        said |= self._service_tier(said)
        right, wrong = rightly_typed(said)
        self._refuse_all(wrong)
        return right

    def prompt(self) -> Prompt | Chat:
        """The text, the ids or the conversation; an empty text where it is wrong."""
        if not self._chat:
            return self._plain_prompt()
        messages, wrong = messages_in(self._body.get("messages"))
        self._refuse_all(wrong)
        self.tools = tools_of(self._body, self._refuse)
        return Chat(messages or [Message("user", "")], self.tools.texts)

    def stream_options(self) -> Mapping[str, Any]:
        """Those that are known."""
        for name in ("stream", *(("logprobs",) if self._chat else ())):
            self._check_flag(name, self._body.get(name))
        options, wrong = known_keys(self._body.get("stream_options"), "stream_options", _STREAM_OPTIONS)
        self.wrong += wrong
        for name, value in options.items():
            self._check_flag(f"stream_options.{name}", value)
        if options and not self._body.get("stream"):
            self._refuse("stream_options", "comes without stream; ask for stream: true, or leave it out")
        return options

    def built(self, prompt: Prompt | Chat, settings: Mapping[str, Any], request_id: str) -> pb.GenerateRequest | None:
        """The message; None where something more is wrong."""
        given = self._body.get("model")
        model = "" if given is None else given
        if not isinstance(model, str):
            self._refuse("model", f"is of type {type(model).__name__}, it must be the name of a model")
            model = ""
        if self.tools.forced:
            self._check_only_form(settings)
        try:
            return build_request(prompt, model=model, request_id=request_id, **settings)
        except InvalidRequest as error:
            self._refuse_all(error.violations)
            return None

    def _check_only_form(self, settings: Mapping[str, Any]) -> None:
        """A call that must be made is the form of its answer."""
        if other := next((self.names[kind] for kind in KINDS if kind in settings), None):
            text = f"asks for a call, and {other} for another form of the answer; leave one of them out"
            self._refuse("tool_choice", text)
        self.names["grammar"] = "tools"  # what the grammar is made of

    def _length(self) -> dict[str, Any]:
        given = {name: value for name in ("max_tokens", "max_completion_tokens")
                 if (value := self._body.get(name)) is not None}  # fmt: skip
        if len({repr(value) for value in given.values()}) > 1:
            self._refuse("max_completion_tokens", "differs from max_tokens, which means the same; give one of them")
        for name, value in given.items():
            self.names["max_new_tokens"] = name
            return {"max_new_tokens": value}
        return {}

    def _ours(self) -> dict[str, Any]:
        given, wrong = known_keys(self._body.get("moesaic"), "moesaic", OURS)
        self.wrong += wrong
        return dict(given)

    def _logprobs(self) -> dict[str, Any]:
        """Of a completion a number, of a chat a flag with a number beside it."""
        asked, top = self._body.get("logprobs"), self._body.get("top_logprobs")
        if not self._chat:
            return {} if asked is None else {"logprobs": asked}
        if not asked and top is not None:
            self._refuse("top_logprobs", "comes without logprobs; ask for logprobs: true, or leave it out")
        return {"logprobs": 0 if top is None else top} if asked is True else {}

    def _response_format(self) -> dict[str, Any]:
        asked = self._body.get("response_format")
        given, wrong = known_keys(asked, "response_format", ("type", "json_schema"))
        self.wrong += wrong
        kind = given.get("type")
        if asked is None or kind == "text" or wrong:
            return {}
        if kind == "json_object":
            return {"json_schema": {"type": "object"}}
        described = given.get("json_schema")
        if kind == "json_schema" and isinstance(described, Mapping) and isinstance(described.get("schema"), Mapping):
            return {"json_schema": described["schema"]}
        rule = 'it must be {"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "json_schema": ...}'
        self._refuse("response_format", f"is of another form: {rule} with a name and a schema")
        return {}

    def _service_tier(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """A tier of the model by its name, or one of OpenAI's names, of which two are priorities here."""
        asked = self._body.get("service_tier")
        if asked is None or asked in _USUAL:
            return {}
        if not isinstance(asked, str):
            self._refuse("service_tier", "must be the name of a tier")
            return {}
        ours = "priority" if asked in _PRIORITIES else "tier"
        others = ("priority",) if asked in _PRIORITIES else ("tier", "share")
        if other := next((name for name in others if name in said), None):
            self._refuse("service_tier", f"comes with moesaic.{other}; give one of them")
        self.names[ours] = "service_tier"
        return {ours: _PRIORITIES.get(asked, asked)}

    def _plain_prompt(self) -> Prompt:
        prompt = self._body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
            prompt = prompt[0]
        if isinstance(prompt, str):
            return prompt
        if isinstance(prompt, list) and {*map(type, prompt)} == {int}:
            return prompt
        if isinstance(prompt, list) and len(prompt) > 1 and isinstance(prompt[0], str | list):
            self._refuse("prompt", f"holds {len(prompt)} prompts; send a request for each", "UNSUPPORTED_FIELD")
        else:
            self._refuse("prompt", "must be a text or a list of token ids", "EMPTY_PROMPT")
        return ""

    def _check_flag(self, name: str, value: object) -> None:
        if value is not None and not isinstance(value, bool):
            self._refuse(name, "must be true or false")

    def _refuse_all(self, wrong: Sequence[Violation]) -> None:
        """Those whose fields have our names."""
        self.wrong += as_sent(InvalidRequest(wrong), self.names).violations

    def _refuse(self, field: str, message: str, reason: str = "INVALID_VALUE") -> None:
        self.wrong.append(Violation(field, message, reason))


def _number(token: str) -> int | str:
    """A token id as JSON writes it in front of a colon."""
    return int(token) if token.isascii() and token.isdecimal() and len(token) < 20 else token
