"""The chat template of a served model, off the loop that serves everybody."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ..models.chat import ChatTemplate, Message


class ServedChat:
    """Renders on a thread of its own: chats of a model whose template is slow keep only each other waiting."""

    def __init__(self, template: ChatTemplate) -> None:
        self.available = template.available
        self.end_ids = template.end_ids
        self._template = template
        self._thread = ThreadPoolExecutor(1, "chat")

    async def prompt_ids(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Gives what `ChatTemplate.prompt_ids` does."""
        loop = asyncio.get_running_loop()
        return tuple(await loop.run_in_executor(self._thread, self._template.prompt_ids, messages))
