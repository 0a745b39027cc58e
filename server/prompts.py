"""From the prompt of a request to token ids, the long ones off the loop that serves everybody."""

import asyncio
from collections.abc import Sequence
from typing import Any

from ..models.chat import Turn, message_of, message_violations
from ..models.errors import InvalidRequest, Violation
from ..models.tokenizer import Tokenizer
from ..proto import engine_pb2
from .chat import ServedChat
from .long_prompts import LongPrompts, ids_of

MAX_TEXT_BYTES = 1 << 20
LONG_CHARACTERS = 1 << 14  # what would keep the loop for longer than some milliseconds
TINY_CHARACTERS = 1 << 8  # what keeps it for no time at all
LONG_IDS = 1 << 12  # the same the other way
Conversation = Any  # a message with `messages` and `tools`
WithPrompt = Any  # a message with a oneof `prompt`, of which it may have less than a GenerateRequest


class Prompts:
    """What makes ids of the prompts of one model."""

    def __init__(self, tokenizer: Tokenizer, chat: ServedChat, long: LongPrompts) -> None:
        self.tokenizer, self.chat, self.long = tokenizer, chat, long
        self._turn = asyncio.Lock()
        self._most_bytes = tokenizer.most_bytes_per_token

    async def ids(self, message: WithPrompt, window: int) -> tuple[int, ...]:
        """The ids; where these are more than the window holds, as many others.

        Raises InvalidRequest for a prompt that is wrong in itself, Unsupported for a chat where there is no template.
        """
        if wrong := self._violations(message, window):
            raise InvalidRequest(wrong)
        kind = message.WhichOneof("prompt")
        if kind == "messages":
            return await self._chat_ids(message.messages, window)
        if kind == "token_ids":
            ids = message.token_ids.ids
            return tuple(ids) if len(ids) <= window else (0,) * len(ids)
        if len(message.text) < LONG_CHARACTERS:
            return await self._encoded(message.text)
        return await self.long.ids(lambda: engine_pb2.Tokenize(text=message.text, window=window))

    async def _encoded(self, text: str) -> tuple[int, ...]:
        """Ids of a text that is not long. One text a turn of the loop: those of a batch would keep it together."""
        if len(text) < TINY_CHARACTERS:
            return tuple(self.tokenizer.encode(text))
        async with self._turn:
            await asyncio.sleep(0)
            return tuple(self.tokenizer.encode(text))

    async def text(self, ids: Sequence[int]) -> str:
        """The text of ids of the vocabulary. Raises InvalidRequest for one that is too large."""
        if len(ids) < LONG_IDS:
            text = self.tokenizer.decode(ids)
        else:
            text = (await self.long.ask(lambda: engine_pb2.Tokenize(ids=ids))).text
        size = len(text.encode())
        if size > MAX_TEXT_BYTES:
            wrong = f"make a text of {size} bytes, the limit is {MAX_TEXT_BYTES}; give them in parts"
            raise InvalidRequest([Violation("token_ids", wrong, "TEXT_TOO_LARGE")])
        return text

    async def written(self, chat: Conversation) -> str:
        """A conversation as the chat template writes it. Raises what `ids` does."""
        if _is_short(chat):
            return await self.chat.written([*map(message_of, chat.messages)], [*chat.tools])
        return (await self.long.ask(lambda: _asked(chat, written=True))).text

    def check_text(self, text: str, window: int) -> None:
        """Raises InvalidRequest for a text that no prompt of this window can begin with."""
        if wrong := self._text_violations(len(text.encode()), window):
            raise InvalidRequest(wrong)

    async def split(self, context: str, continuation: str, window: int, short: bool) -> tuple[tuple[int, ...], int]:
        """Ids of both together, and how many of them stand before the continuation. Raises what `ids` does.

        short: made here and now.
        """
        text, at = context + continuation, len(context)
        self.check_text(text, window)
        if short:
            ids, before = self.tokenizer.encode_split(text, at)
            return tuple(ids), before
        found = await self.long.ask(lambda: engine_pb2.Tokenize(text=text, window=window, split=at))
        return ids_of(found), found.num_before

    def _violations(self, message: WithPrompt, window: int) -> list[Violation]:
        kind = message.WhichOneof("prompt")
        if kind is None:
            return [Violation("prompt", "is not set; give text, token_ids or messages", "EMPTY_PROMPT")]
        if kind == "messages":
            return message_violations(message.messages.messages, message.messages.tools)
        return self._text_violations(len(message.text.encode()), window) if kind == "text" else []

    def _text_violations(self, size: int, window: int) -> list[Violation]:
        if size > MAX_TEXT_BYTES:
            rule = f"the limit is {MAX_TEXT_BYTES}; shorten it"
            return [Violation("prompt.text", f"has {size} bytes, {rule}", "PROMPT_TOO_LARGE")]
        if self._most_bytes is None or size <= window * self._most_bytes:
            return []
        most = window * self._most_bytes
        text = f"has {size} bytes, the {window} tokens of the context hold {most} at most; shorten it"
        return [Violation("prompt", text, "CONTEXT_LENGTH_EXCEEDED", {"limit": str(window)})]

    async def _chat_ids(self, chat: Conversation, window: int) -> tuple[int, ...]:
        if _is_short(chat):
            return await self.chat.prompt_ids([*map(message_of, chat.messages)], [*chat.tools])
        return await self.long.ids(lambda: _asked(chat, window=window))


def _is_short(chat: Conversation) -> bool:
    calls = [call for message in chat.messages for call in message.tool_calls]
    told = [*(message.content for message in chat.messages), *chat.tools, *(call.arguments for call in calls)]
    return sum(map(len, told)) < LONG_CHARACTERS


def _asked(chat: Conversation, window: int = 0, written: bool = False) -> engine_pb2.Tokenize:
    turns = map(_turn, chat.messages)
    return engine_pb2.Tokenize(turns=turns, tools=chat.tools, window=window, written=written)


def _turn(message: Turn) -> engine_pb2.Turn:
    calls = [engine_pb2.Called(name=call.name, arguments=call.arguments) for call in message.tool_calls]
    return engine_pb2.Turn(role=message.role, content=message.content, tool_calls=calls)
