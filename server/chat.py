"""The chat template of a served model, off the loop that serves everybody."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ..models.chat import ChatTemplate, Message
from ..models.errors import Unavailable

T = TypeVar("T")


class ServedChat:
    """Renders on a thread of its own: chats of a model whose template is slow keep only each other waiting."""

    def __init__(self, template: ChatTemplate) -> None:
        self.available = template.available
        self.tool_form = template.tool_form
        self.end_ids = template.end_ids
        self._template = template
        self._thread = ThreadPoolExecutor(1, "chat")
        self._ended = False

    async def prompt_ids(self, messages: Sequence[Message], tools: Sequence[str] = ()) -> tuple[int, ...]:
        """Gives what `ChatTemplate.prompt_ids` does."""
        return tuple(await self._in_thread(self._template.prompt_ids, messages, tools))

    async def written(self, messages: Sequence[Message], tools: Sequence[str] = ()) -> str:
        """Gives what `ChatTemplate.written` does."""
        return await self._in_thread(self._template.written, messages, tools)

    def end(self) -> None:
        """Lets thread and process go; from now on there are no more chats."""
        self._ended = True
        self._thread.submit(self._template.end)
        self._thread.shutdown(wait=False)

    async def _in_thread(
        self, work: Callable[[Sequence[Message], Sequence[str]], T], messages: Sequence[Message], tools: Sequence[str]
    ) -> T:
        if self._ended:
            raise Unavailable("the model of this chat is no longer served", "UNLOADING", 0.0)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, messages, tools)
