"""Which requests an engine has: as many as it has slots and a few more. The others wait here, in the engine's order."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf

from ..engine.queue import FairQueue
from ..engine.request import FinishReason, Request, Row
from ..models.errors import Unavailable
from ..proto import engine_pb2 as pb
from .messages import submit_message
from .running import Running

SPARE = 2  # beyond the slots, so that none of them waits for the front end


@dataclass(eq=False, slots=True)
class Held:
    """A request that the engine does not have yet."""

    request: Request
    running: Running

    @property
    def num_prompt(self) -> int:
        return len(self.request.prompt_ids)


class Credits:
    """Hands requests to the engine while it has room for them, and takes back those that are no longer wanted.

    An aborted request counts until the engine has said that it obeyed: what one that does not read is sent is bounded.
    """

    def __init__(self, num_slots: int, send: Callable[[pb.Command], None], has_room: Callable[[], bool]) -> None:
        self._most = num_slots + SPARE
        self._send, self._has_room = send, has_room
        self._held: FairQueue[Held] = FairQueue()
        self._handed: dict[int, Running] = {}  # by key: with the engine
        self._aborted: deque[tuple[int, int]] = deque()  # (commands sent up to its abort, key)
        self._num_sent = 0
        self._earliest = inf  # deadline of those that wait here

    @property
    def num_held(self) -> int:
        """Requests that the engine does not have yet."""
        return len(self._held)

    @property
    def num_handed(self) -> int:
        """Requests that the engine has, or has not yet said to have dropped."""
        return len(self._handed)

    @property
    def owed(self) -> bool:
        """Whether the engine owes an answer; a slow reader of a finished one is no work."""
        return any(not running.ended for running in self._handed.values())

    def add(self, request: Request, running: Running) -> None:
        """Takes in a request, whose turn may come at once."""
        self._held.push(Held(request, running))
        if request.deadline_seconds is not None:
            self._earliest = min(self._earliest, request.deadline_seconds)
        self.hand_over()

    def drop(self, running: Running) -> None:
        """Forgets a request that ended here; the engine hears of it only where it has it still. Twice is once."""
        if any(key == running.key for _, key in self._aborted):
            return
        if self._handed.get(running.key) is running:
            self._command(pb.Command(abort=pb.Abort(key=running.key)))
            self._aborted.append((self._num_sent, running.key))
        elif not running.is_whole:  # one that has run to its end does not wait here
            self._held.remove(lambda held: held.running is running)

    def end_answer(self, running: Running, choice: int) -> None:
        """Has the engine make no more of one of a request's answers, which has ended here."""
        if running.close(choice):
            self._command(pb.Command(abort=pb.Abort(key=running.key, choice=choice)))

    def row(self, row: Row) -> None:
        """Gives a row to its request, unless nobody waits for it any more."""
        running = self._handed.get(row.key)
        if running is not None:
            running.put(row)
            if running.ended:
                self._free(row.key)

    def obeyed(self, num_commands: int) -> None:
        """The engine has carried out so many commands of all that were sent."""
        while self._aborted and self._aborted[0][0] <= num_commands:
            self._free(self._aborted.popleft()[1])

    def expire(self, now: float) -> None:
        """Ends what waits here and is too late."""
        if now < self._earliest:
            return

        def late(held: Held) -> bool:
            return held.request.deadline_seconds is not None and held.request.deadline_seconds <= now

        for held in self._held.remove(late):
            held.running.put(Row(held.running.key, finish=FinishReason.EXPIRED))
        deadlines = (held.request.deadline_seconds for held in self._held)
        self._earliest = min((each for each in deadlines if each is not None), default=inf)

    def hand_over(self) -> None:
        """Sends as many requests as there is room for."""
        while self.num_handed < self._most and self._has_room() and (held := self._held.pop()):
            self._handed[held.running.key] = held.running
            self._command(submit_message(replace(held.request, key=held.running.key)))

    def fail(self, error: Unavailable) -> None:
        """Ends all requests with `error`; their handlers drop them."""
        for running in [*self._handed.values(), *(held.running for held in self._held)]:
            running.fail(error)

    def _free(self, key: int) -> None:
        self._handed.pop(key, None)
        self.hand_over()

    def _command(self, command: pb.Command) -> None:
        self._num_sent += 1
        self._send(command)
