"""One request in the engine, as the front end sees it: what has arrived and was not yet taken."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain

from ..engine.receipt import Receipt
from ..engine.request import Row, Timing
from ..models.errors import MoesaicError
from .turnstile import Turnstile


class Running:
    """The mailbox between the reader of the engine's frames and the handler of one request.

    The reader puts, the handler takes. What arrives of an answer while the handler is busy is taken as one piece.
    turnstile: through which all handlers of a model go. at_once: rows that the handler waits for together, unless
    an answer ends before; it may be set at any time. when_ended: called once the engine has nothing more to say,
    perhaps more than once. spend: told how many tokens came, which somebody pays for.
    """

    def __init__(self, key: int, num_answers: int, receipt: Receipt, turnstile: Turnstile) -> None:
        self.key, self.receipt = key, receipt
        self._turnstile = turnstile
        self.at_once = 1
        self.when_ended: Callable[[], None] = lambda: None
        self.spend: Callable[[int], None] = lambda _: None
        self._num_rows, self._has_enough = 0, False  # for the handler, of what was not yet taken
        self._open = set(range(num_answers))
        self._rows: dict[int, list[Row]] = {}  # of each answer what was not yet taken
        self._begun: dict[int, list[Row]] = {}  # of each answer what its first token waits for
        self._error: MoesaicError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timing: Timing | None = None
        self._first_at: float | None = None

    @property
    def ended(self) -> bool:
        """Whether the engine has nothing more to say about this request."""
        return self.is_whole or self._error is not None

    @property
    def is_whole(self) -> bool:
        """Whether all of its answers have ended."""
        return not self._open

    @property
    def timing(self) -> Timing:
        """The engine's own figures; decode is timed here when a stop string ended the request."""
        known = self._timing or Timing()
        if not self._open or self._first_at is None:
            return known
        return Timing(known.queue_seconds, known.prefill_seconds, time.monotonic() - self._first_at)

    def put(self, row: Row) -> None:
        """Takes in what one step gave to this request."""
        if self._first_at is None and row.token_ids:
            self._first_at = time.monotonic()
        self._timing = row.timing or self._timing
        self.receipt.note(row)
        self.spend(len(row.token_ids))
        if row.finish is not None:
            self._open.discard(row.choice)
        waiting = self._rows.get(row.choice)
        if waiting is not None:
            waiting.append(row)
        elif row.token_ids or row.finish:
            self._rows[row.choice] = [*self._begun.pop(row.choice, ()), row]
        else:  # a part of a prompt's log probabilities, which come with a token
            self._begun.setdefault(row.choice, []).append(row)
            return
        self._num_rows += 1
        if self._num_rows >= self.at_once or row.finish is not None:
            self._wake()
        if not self._open:
            self.when_ended()

    def close(self, choice: int) -> bool:
        """Whether the engine still had something to say of this answer; now it has not."""
        was_open = choice in self._open
        self._open.discard(choice)
        if not self._open:
            self._wake()
            self.when_ended()
        return was_open

    def fail(self, error: MoesaicError) -> None:
        """Ends the request: `take` raises `error` from now on."""
        if not self.ended:
            self._error = error
            self._wake()
            self.when_ended()

    async def take(self) -> list[Row]:
        """What has come since the last call, at least `at_once` rows or an end, those of an answer as one."""
        while not self._has_enough:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        await self._turnstile.passed()
        if self._error is not None:
            raise self._error
        taken, self._rows = self._rows, {}
        self._num_rows, self._has_enough = 0, self.ended
        return [rows[0] if len(rows) == 1 else _together(rows) for rows in taken.values()]

    def _wake(self) -> None:
        self._has_enough = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _together(rows: Sequence[Row]) -> Row:
    """Rows of one answer as one."""
    return replace(
        rows[-1],
        token_ids=tuple(chain.from_iterable(row.token_ids for row in rows)),
        logprobs=tuple(chain.from_iterable(row.logprobs for row in rows)),
        prompt_logprobs=tuple(chain.from_iterable(row.prompt_logprobs for row in rows)),
        distributions=tuple(chain.from_iterable(row.distributions for row in rows)),
    )
