"""How many streams take in what came for them in one turn of the loop, so that others have theirs in between."""

import asyncio
from collections import deque

STREAMS_A_TURN = 32  # some milliseconds of messages made and written


class Turnstile:
    """Lets so many through in a turn of the loop; the rest wait for later turns, in their order.

    gRPC takes one new call of a method in two turns. Where a step of the engine wakes a thousand streams at once, a
    turn in which all of them write is a fifth of a second long, and who calls anew, or asks for the health, waits as
    many turns as calls are before it. What comes for a stream while it waits goes with the same message.
    """

    def __init__(self, most: int = STREAMS_A_TURN) -> None:
        self._most = self._left = most
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_looked_after = False

    async def passed(self) -> None:
        """Returns in a turn that has room left."""
        self._look_after()
        if self._left and not self._waiting:
            self._left -= 1
            return
        self._waiting.append(waiter := asyncio.get_running_loop().create_future())
        await waiter

    def _look_after(self) -> None:
        if not self._is_looked_after:
            self._is_looked_after = True
            asyncio.get_running_loop().call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self._is_looked_after, self._left = False, self._most
        while self._left and self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():  # one that nobody waits for any more takes no room
                waiter.set_result(None)
                self._left -= 1
        if self._waiting:
            self._look_after()
