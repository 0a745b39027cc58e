"""From the prompt of a request to token ids, the long ones off the loop that serves everybody."""

from collections.abc import Sequence

from ..models.chat import Message, Turn, message_violations
from ..models.errors import InvalidRequest, Violation
from ..models.tokenizer import Tokenizer
from ..proto import engine_pb2, generation_pb2
from .chat import ServedChat
from .long_prompts import LongPrompts

MAX_TEXT_BYTES = 1 << 20
LONG_CHARACTERS = 1 << 14  # what would keep the loop for longer than some milliseconds


class Prompts:
    """What makes ids of the prompts of one model."""

    def __init__(self, tokenizer: Tokenizer, chat: ServedChat, long: LongPrompts) -> None:
        self.tokenizer, self.chat, self.long = tokenizer, chat, long
        self._most_bytes = tokenizer.most_bytes_per_token

    async def ids(self, message: generation_pb2.GenerateRequest, window: int) -> tuple[int, ...]:
        """The ids; where these are more than the window holds, as many others.

        Raises InvalidRequest for a prompt that is wrong in itself, Unsupported for a chat where there is no template.
        """
        if wrong := self._violations(message, window):
            raise InvalidRequest(wrong)
        if message.HasField("messages"):
            return await self._chat_ids(message.messages.messages, window)
        if message.HasField("token_ids"):
            ids = message.token_ids.ids
            return tuple(ids) if len(ids) <= window else (0,) * len(ids)
        if len(message.text) < LONG_CHARACTERS:
            return tuple(self.tokenizer.encode(message.text))
        return await self.long.ids(engine_pb2.Tokenize(text=message.text, window=window))

    def _violations(self, message: generation_pb2.GenerateRequest, window: int) -> list[Violation]:
        kind = message.WhichOneof("prompt")
        if kind is None:
            return [Violation("prompt", "is not set; give text, token_ids or messages", "EMPTY_PROMPT")]
        if kind == "messages":
            return message_violations(message.messages.messages)
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

    async def _chat_ids(self, messages: Sequence[Turn], window: int) -> tuple[int, ...]:
        if sum(len(message.content) for message in messages) < LONG_CHARACTERS:
            return await self.chat.prompt_ids([Message(each.role, each.content) for each in messages])
        turns = [engine_pb2.Turn(role=each.role, content=each.content) for each in messages]
        return await self.long.ids(engine_pb2.Tokenize(turns=turns, window=window))
