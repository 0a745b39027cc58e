"""One engine process from its start to its end: its socket, what it prints, and the watchdog that kills it."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..proto import engine_pb2 as pb
from .engine_link import Link
from .engine_output import EngineOutput
from .watchdog import TICK_SECONDS, Patience, Watchdog


class EngineChild:
    """A process that was started. `link.closed` is done when it is gone or was killed; then `end` must be called.

    served: to be set when it is ready, which makes its watchdog stricter. owes: whether it owes an answer.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, link: Link, output: EngineOutput, watchdog: Watchdog,
        owes: Callable[[], bool],
    ) -> None:  # fmt: skip
        self.link = link
        self.served = False
        self._process, self._output, self._owes = process, output, owes
        self._wrong = ""  # what the watchdog has killed it for
        self._guard = asyncio.create_task(self._watch(watchdog))

    @classmethod
    async def start(
        cls,
        name: str,
        command: Sequence[str],
        arguments: Sequence[str],
        patience: Patience,
        on_event: Callable[[pb.Event], None],
        on_room: Callable[[], None],
        owes: Callable[[], bool],
    ) -> "EngineChild":
        """Runs command FD arguments. Raises OSError where that cannot be."""
        watchdog = Watchdog(patience)

        def heard(event: pb.Event) -> None:
            watchdog.heard(event)
            on_event(event)

        ours, theirs = socket.socketpair()
        output = await EngineOutput.open(name)
        with theirs, output.writer as words:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(theirs.fileno()),
                *arguments,
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                start_new_session=True,  # Ctrl-C is for the front end, which drains
            )
        _, link = await asyncio.get_running_loop().create_unix_connection(lambda: Link(heard, on_room), sock=ours)
        return cls(process, link, output, watchdog, owes)

    async def exits_within(self, seconds: float) -> bool:
        """Waits so long for an end by itself."""
        if self._process.returncode is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):  # wait_for of Python 3.11 forgets that it was cancelled meanwhile
                    await self._process.wait()
        return self._process.returncode is not None

    async def end(self, patience_seconds: float) -> str:
        """Closes the socket and waits for the process, which is killed when that takes too long; how it ended."""
        self._guard.cancel()
        self.link.close()
        if not await self.exits_within(patience_seconds):
            self._kill()
        code = await self._process.wait()
        await self._output.end()
        if self._wrong:
            return f"{self._wrong}: it was killed"
        return f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"

    async def _watch(self, watchdog: Watchdog) -> None:
        wrong = None
        while wrong is None:
            await asyncio.sleep(TICK_SECONDS)
            wrong = watchdog.tick(not self.served, self._owes())
        self._wrong = wrong
        self._kill()
        self.link.close()  # its callers need not wait for what a kernel does with it

    def _kill(self) -> None:
        with suppress(ProcessLookupError):  # it ended by itself just now
            self._process.kill()
