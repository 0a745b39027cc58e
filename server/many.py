"""Several pieces of work of one call: some at a time, and each waits for room instead of being refused."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

from ..models.errors import Overloaded

MOST_AT_A_TIME = 32  # of one call, so that one caller takes half of a model's places at most, as they are by default

T = TypeVar("T")


async def as_they_end(works: Iterable[Callable[[], Awaitable[T]]]) -> AsyncIterator[tuple[int, T]]:
    """(index, result) of each. What is not done when this is closed is cancelled; an exception of one ends all."""
    waiting = enumerate(works)
    running: dict[asyncio.Task[T], int] = {}
    try:
        while True:
            while len(running) < MOST_AT_A_TIME and (following := next(waiting, None)):
                running[asyncio.create_task(with_room(following[1]))] = following[0]
            if not running:
                return
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield running.pop(task), task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def with_room(work: Callable[[], Awaitable[T]]) -> T:
    """Begins again while there is no room, whenever it is told to."""
    while True:
        try:
            return await work()
        except Overloaded as error:
            if error.reason != "QUEUE_FULL":
                raise
            await asyncio.sleep(error.retry_after_seconds)
