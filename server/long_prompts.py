"""Long prompts become ids in a process of its own: the library keeps the loop waiting, and takes a hundred times the
memory of a text.
"""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..models.errors import InvalidRequest, Unavailable, Unsupported, Violation
from ..proto import engine_pb2 as pb
from .frames import LENGTH, frame

MOST_SECONDS = 20.0  # for one prompt
IDLE_SECONDS = 60.0  # without a long prompt, and the process ends
Question = Callable[[], pb.Tokenize]
_COMMAND = (sys.executable, "-P", "-m", "moesaic.server.prompt_process")


class LongPrompts:
    """The process of one model. It is started when first needed; prompts take turns."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._turn = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._ended = False
        self._ending: set[asyncio.Task[int]] = set()  # killed, and not yet gone

    async def ids(self, prompt: Question) -> tuple[int, ...]:
        """The ids of a text or of a conversation; where these are more than its window, as many zeros. Raises what
        `ask` does.
        """
        return ids_of(await self.ask(prompt))

    async def ask(self, prompt: Question) -> pb.Tokenized:
        """What the process says of a prompt, which is made when its turn comes: those that wait are held once.

        Raises what ChatTemplate.prompt_ids does, Unavailable where the process ends, and InvalidRequest for what takes
        too long.
        """
        async with self._turn:
            if self._ended:
                raise Unavailable("the model of this prompt is no longer served", "UNLOADING", 0.0)
            if self._idle is not None:
                self._idle.cancel()
            try:
                async with asyncio.timeout(MOST_SECONDS):
                    found = await self._exchanged(prompt)
            except TimeoutError:
                self._kill()
                text = f"takes more than {MOST_SECONDS:g} s to be made into tokens; shorten it"
                raise InvalidRequest([Violation("prompt", text, "PROMPT_TOO_LARGE")]) from None
            except (OSError, EOFError):
                self._kill()
                raise Unavailable("the process for long prompts ended; try again", "TOKENIZER_ENDED", 1.0) from None
            except asyncio.CancelledError:
                self._kill()  # nor may a later question get the answer to this one
                raise
            self._end_when_idle()
        return _right(found)

    async def end(self) -> None:
        """Ends the process for good and waits until it is gone."""
        self._ended = True
        if self._idle is not None:
            self._idle.cancel()
        self._kill()
        if self._ending:
            await asyncio.wait(self._ending)

    async def _exchanged(self, prompt: Question) -> pb.Tokenized:
        process = self._process
        if process is None or process.returncode is not None:
            process = self._process = await asyncio.create_subprocess_exec(
                *_COMMAND, str(self._folder), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for us
            )  # fmt: skip
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process for long prompts was started without pipes")
        process.stdin.write(frame(prompt()))
        await process.stdin.drain()
        (size,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
        return pb.Tokenized.FromString(await process.stdout.readexactly(size))

    def _end_when_idle(self) -> None:
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._kill)

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):  # it has ended
                process.kill()
            gone = asyncio.create_task(process.wait())
            self._ending.add(gone)
            gone.add_done_callback(self._ending.discard)


def ids_of(found: pb.Tokenized) -> tuple[int, ...]:
    """The ids, or as many zeros where only their number was wanted."""
    return tuple(found.ids) or (0,) * found.num_ids


def _right(found: pb.Tokenized) -> pb.Tokenized:
    if found.unsupported:
        raise Unsupported(found.unsupported)
    if found.wrong:
        raise InvalidRequest([Violation(each.field, each.message, each.reason) for each in found.wrong])
    return found
