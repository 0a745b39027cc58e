"""From a conversation to the token ids that a chat model was trained to see, by the model's own template. No torch.

A template is code from a checkpoint: it runs in a process of its own (chat_sandbox.py), and no request brings one.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from .chat_renderer import Refused, Renderer, RenderLimits
from .errors import CheckpointError, InvalidRequest, Unsupported, Violation
from .optional_json import read_optional_json
from .tokenizer import Tokenizer, is_unicode
from .tool_calls import (
    FIELD,
    Called,
    ToolCall,
    call_for_template,
    json_object,
    mapped,
    texts_in,
    tool_bytes,
    tool_form,
    tool_violations,
)

TEMPLATE_NAME = "chat_template.jinja"
MAX_TEMPLATE_BYTES = 1 << 20
MAX_MESSAGES = 1024
MAX_ROLE_BYTES = 64
MAX_CONTENT_BYTES = 1 << 20  # of all messages together
NO_TOOLS = "say in a message what may be called, and ask for JSON by a json_schema"
_SHAPE = "a list of {'role': ..., 'content': ...}"
_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_PRIVATE_USE = range(0xF0000, 0xFFFFE)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. Which roles there are is the template's matter; most know system, user and assistant.

    tool_calls: that it made.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()


class Turn(Protocol):
    """A message, ours or that of the wire."""

    @property
    def role(self) -> str: ...
    @property
    def content(self) -> str: ...
    @property
    def tool_calls(self) -> Sequence[Called]: ...


def message_of(turn: Turn) -> Message:
    """The message that another kind of turn is."""
    calls = tuple(ToolCall(call.name, call.arguments) for call in turn.tool_calls)
    return Message(turn.role, turn.content, calls)


class ChatTemplate:
    """The chat template of a model directory, with the tokenizer that its text is meant for.

    available: whether there is one; a directory without it can be opened, and refuses to chat. tool_form: how its model
    writes calls, None where it takes no tools. end_ids: the end of a turn (eos_token of tokenizer_config.json), where
    the model's end-of-text ids do not hold it already.
    """

    def __init__(
        self, tokenizer: Tokenizer, source: str | None, tokens: Mapping[str, str], problem: str = "",
        limits: RenderLimits | None = None,
    ) -> None:  # fmt: skip
        self.available = source is not None
        self.tool_form = tool_form(source)
        self._tokenizer = tokenizer
        self._problem = problem
        self._renderer = Renderer(source or "", tokens, limits or RenderLimits())
        self._special = tokenizer.special_tokens
        self._special_pattern = "|".join(map(re.escape, sorted(self._special, key=len, reverse=True))) or "(?!)"
        end = tokenizer.id_of(tokens.get("eos_token", ""))
        self.end_ids = () if end is None or end in tokenizer.eos_ids else (end,)

    @classmethod
    def open(cls, folder: str | Path, tokenizer: Tokenizer) -> "ChatTemplate":
        """Reads chat_template.jinja, else chat_template of tokenizer_config.json; of several, the one named default."""
        folder = Path(folder)
        try:
            config = read_optional_json(folder / "tokenizer_config.json")
            named = read_optional_json(folder / "special_tokens_map.json") | config
            source = read_template(folder, config)
        except CheckpointError as error:
            return cls(tokenizer, None, {}, str(error))
        return cls(tokenizer, source, {name: text for name in _TOKENS if (text := _content(named.get(name)))})

    def end(self) -> None:
        """Ends the process that renders, which another conversation would start again."""
        self._renderer.end()

    def require(self, tools: Sequence[str] = ()) -> None:
        """Raises Unsupported where there is no template, or one that takes no tools, with the way out."""
        if not self.available:
            raise Unsupported(f"{self._problem}; give a plain prompt instead")
        if tools and self.tool_form is None:
            raise Unsupported(f"the chat template of this model takes no tools; {NO_TOOLS}")

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[str] = ()) -> list[int]:
        """Ids of the conversation and of the header of the answer to come; equal to apply_chat_template's.

        tools: what may be called, each a JSON object. The names of special tokens in what is said are encoded as
        ordinary text, so that nobody whose words are quoted there can end a turn or begin another (apply_chat_template
        does so with sanitize_control_tokens=True).
        What is not marked special in the tokenizer, and what a template itself makes of a role, is not held back.
        Raises InvalidRequest where the template refuses the messages, Unsupported where there is none that works.
        """
        self.require(tools)
        said = _said(messages, tools)
        texts = [*texts_in(said)]
        if not any(re.search(self._special_pattern, text) for text in texts):
            return self._tokenizer.encode_rendered(self._rendered(said))
        begin, end = _unused_letters(texts)
        marked = mapped(said, lambda text: self._marked(text, begin, end))
        return self._encode_marked(self._rendered(marked), begin, end)

    def written(self, messages: Sequence[Message], tools: Sequence[str] = ()) -> str:
        """The conversation and the header of the answer to come, as the template writes them. Raises what
        `prompt_ids` does."""
        self.require(tools)
        return self._rendered(_said(messages, tools))

    def _rendered(self, said: Mapping[str, Any]) -> str:
        try:
            text = self._renderer.render(said["messages"], said["tools"])
        except Refused as error:
            message = f"are refused by the model's chat template: {error}"
            raise InvalidRequest([Violation(FIELD, message, "REFUSED_BY_TEMPLATE")]) from None
        if not is_unicode(text):
            raise Unsupported("the model's chat template writes what is no Unicode; give a plain prompt instead")
        return text

    def _marked(self, text: str, begin: str, end: str) -> str:
        return re.sub(self._special_pattern, rf"{begin}\g<0>{end}", text)

    def _encode_marked(self, text: str, begin: str, end: str) -> list[int]:
        """Marked names as ordinary text, the rest as usual; a mark that the template has torn off still separates."""
        pieces = re.split(f"{begin}({self._special_pattern}){end}|[{begin}{end}]", text)
        ids = self._tokenizer.encode_rendered(pieces[0])
        for i, piece in enumerate(pieces[1:], start=1):
            if i % 2 == 0:
                ids += _encode_inside(self._tokenizer.encode_rendered, piece or "")
            elif piece:
                ids += self._as_text(piece)
        return ids

    def _as_text(self, name: str) -> list[int]:
        ids = _encode_inside(self._tokenizer.encode_as_text, name)
        if self._special[name] in ids:
            message = f"hold {name!r}, which this model's tokenizer cannot tell from the token; take it out"
            raise InvalidRequest([Violation(FIELD, message)])
        return ids


def messages_of(values: object) -> tuple[list[Message], list[Violation]]:
    """Messages from {"role": text, "content": text} mappings, and everything that is not of this shape."""
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        return [], [Violation(FIELD, f"are of type {type(values).__name__}, they must be {_SHAPE}")]
    messages, found = [], []
    for i, value in enumerate(values):
        calls = value.tool_calls if isinstance(value, Message) else ()
        if isinstance(value, Message):
            value = {"role": value.role, "content": value.content}
        wrong = _shape_violations(f"{FIELD}[{i}]", value)
        found += wrong
        if not wrong:
            messages.append(Message(value["role"], value["content"], calls))
    return messages, found


def message_violations(messages: Sequence[Turn], tools: Sequence[str] = ()) -> list[Violation]:
    """Lists that are empty or too long, roles and contents above their limits. A content may be empty."""
    if not messages:
        return [Violation(FIELD, "are none; give at least one", "EMPTY_PROMPT")]
    if len(messages) > MAX_MESSAGES:
        return [Violation(FIELD, f"are {len(messages)}, the limit is {MAX_MESSAGES}; leave out the oldest")]
    calls = [message.tool_calls for message in messages]
    found = tool_violations(tools, calls)
    for i, message in enumerate(messages):
        size = len(message.role.encode())
        if not 0 < size <= MAX_ROLE_BYTES:
            found.append(Violation(f"{FIELD}[{i}].role", f"has {size} bytes, it must have 1 to {MAX_ROLE_BYTES}"))
    size = sum(len(message.content.encode()) for message in messages) + tool_bytes(tools, calls)
    if size > MAX_CONTENT_BYTES:
        text = f"have contents of {size} bytes together, the limit is {MAX_CONTENT_BYTES}; shorten them"
        found.append(Violation(FIELD, text, "PROMPT_TOO_LARGE"))
    return found


def _shape_violations(field: str, value: Any) -> list[Violation]:
    """Contents are not quoted: they may be private."""
    if not isinstance(value, Mapping) or value.keys() != {"role", "content"}:
        keys = f"has the keys {[*value]}" if isinstance(value, Mapping) else f"is of type {type(value).__name__}"
        return [Violation(field, f"{keys[:80]}, it must have role and content and nothing else")]
    found = []
    for name, text in value.items():
        if not isinstance(text, str):
            found.append(Violation(f"{field}.{name}", f"is of type {type(text).__name__}, it must be text"))
        elif not is_unicode(text):
            found.append(Violation(f"{field}.{name}", "holds half a surrogate pair, which is no Unicode; take it out"))
    return found


def read_template(folder: Path, config: Mapping[str, Any]) -> str:
    """Raises CheckpointError for none, several without a default, or one that is too long."""
    file = folder / TEMPLATE_NAME
    try:
        found: Any = file.read_bytes()[: MAX_TEMPLATE_BYTES + 1].decode() if file.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None
    found = config.get("chat_template") if found is None else found
    if isinstance(found, list):
        by_name = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        if "default" not in by_name:
            raise CheckpointError(f"this model has the chat templates {', '.join(map(str, by_name))} and no default")
        found = by_name["default"]
    if not isinstance(found, str):
        raise CheckpointError(f"this model has no chat template ({TEMPLATE_NAME} or tokenizer_config.json)")
    if len(found) > MAX_TEMPLATE_BYTES:
        raise CheckpointError(f"the chat template of this model has more than {MAX_TEMPLATE_BYTES:,} characters")
    return found


def _content(token: Any) -> str:
    """A token is named by its text, or by an object that holds it."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else ""


def _said(messages: Sequence[Message], tools: Sequence[str]) -> Mapping[str, Any]:
    """What a template is given. Raises InvalidRequest for what should be JSON and is none."""
    said = []
    for i, message in enumerate(messages):
        calls = [call_for_template(each, f"{FIELD}[{i}].tool_calls") for each in message.tool_calls]
        turn = {"role": message.role, "content": message.content}
        said.append({**turn, "tool_calls": calls} if calls else turn)
    return {
        "messages": said,
        "tools": [json_object(tool, f"{FIELD}.tools[{i}]") for i, tool in enumerate(tools)] or None,
    }


def _unused_letters(texts: Iterable[str]) -> tuple[str, str]:
    """Two characters of private use that stand in none of the texts."""
    used = set().union(*texts)
    begin, end = islice((letter for letter in map(chr, _PRIVATE_USE) if letter not in used), 2)
    return begin, end


def _encode_inside(encode: Any, text: str) -> list[int]:
    """Ids of a piece from the middle of a text: behind a newline, where SentencePiece puts no space in front."""
    newline = encode("\n")
    ids: list[int] = encode("\n" + text)
    return ids[len(newline) :] if ids[: len(newline)] == newline else encode(text)
