"""The front end's side of one engine process: start it, talk to it, start it again when it ends."""

import asyncio
import json
import logging
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from enum import Enum

from ..engine.options import EngineOptions, ModelDescription
from ..engine.receipt import Receipt
from ..engine.request import Limits, Load, Request
from ..models.errors import SetupError, Unavailable
from ..proto import engine_pb2 as pb
from .fields import load_of
from .frames import FrameBuffer, frame
from .messages import description_of, limits_of, row_of, submit_message
from .running import Running

WORKER = (sys.executable, "-P", "-m", "moesaic.server.worker")
MAX_TRIES = 5  # to start an engine again, in a row
FIRST_PAUSE_SECONDS = 0.5  # doubled by each try
STEADY_SECONDS = 60.0  # an engine that lived so long has all its tries again
END_SECONDS = 2.0  # from the asking to the killing

_log = logging.getLogger(__name__)


class EngineState(Enum):
    """Where an engine process is in its life."""

    LOADING = "loading"
    SERVING = "serving"
    RESTARTING = "restarting"
    GIVEN_UP = "given up"


class _Link(asyncio.Protocol):
    """Whole events out of the bytes that arrive on the socket."""

    def __init__(self, on_event: Callable[[pb.Event], None]) -> None:
        self._on_event = on_event
        self._buffer = FrameBuffer()
        self._transport: asyncio.WriteTransport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        # What raises here is logged by asyncio and closes the transport: the engine is started again.
        for payload in self._buffer.feed(data):
            self._on_event(pb.Event.FromString(payload))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)

    def send(self, command: pb.Command) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(frame(command))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class EngineProcess:
    """One engine process and the requests that are in it.

    `start` returns when the model has answered a warm-up request. From then on a process that ends is
    started again, and its requests fail with Unavailable. `on_change` is called when the state changes.
    """

    def __init__(
        self,
        name: str,
        path: str,
        options: EngineOptions,
        on_change: Callable[[], None],
        worker: Sequence[str] = WORKER,
    ) -> None:
        self.name = name
        self.state = EngineState.LOADING
        self.description: ModelDescription | None = None
        self.limits: Limits | None = None
        self.load: Load | None = None
        self._command = (*worker,)
        self._arguments = (path, json.dumps(asdict(options)))
        self._on_change = on_change
        self._running: dict[int, Running] = {}
        self._next_key = 1
        self._process: asyncio.subprocess.Process | None = None
        self._link: _Link | None = None
        self._ready: asyncio.Future[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._serving_since = 0.0
        self._progress_at = 0.0

    async def start(self) -> None:
        """Loads the model. Raises SetupError with one sentence when that is not possible."""
        await self._load()
        self._watch = asyncio.create_task(self._keep_alive())

    async def stop(self) -> None:
        """Ends the process, kindly when it is in its loop, else at once."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait((self._watch,))
        if self._link is not None and self.state is EngineState.SERVING:
            self._link.send(pb.Command(shutdown=pb.Shutdown()))
            await self._exit_code(END_SECONDS)
        await self._reap(0.0)

    def submit(self, request: Request) -> Running:
        """Hands a request to the engine under a key of its own. Every one must be released."""
        self.refuse_unless_serving()
        if self.description is None:
            raise RuntimeError(f"the engine of {self.name} serves and has not described itself")
        running = Running(self._next_key, request.sampling.n, Receipt(request, self.description))
        self._next_key += 1
        if not self._has_work:
            self._progress_at = _now()
        self._running[running.key] = running
        self._send(submit_message(replace(request, key=running.key, arrived_seconds=_now())))
        return running

    def release(self, running: Running) -> None:
        """Frees what the request holds; it is aborted if it still runs. Twice is once."""
        if self._running.pop(running.key, None) is not None and not running.ended:
            self._send(pb.Command(abort=pb.Abort(key=running.key)))

    def end_answer(self, running: Running, choice: int) -> None:
        """Has the engine make no more of one of a request's answers, which has ended here."""
        if running.close(choice):
            self._send(pb.Command(abort=pb.Abort(key=running.key, choice=choice)))

    def fail_running(self, error: Unavailable) -> None:
        """Ends every request in the engine with `error`; their handlers release them."""
        for running in list(self._running.values()):
            running.fail(error)

    def stalled(self, seconds: float) -> bool:
        """Whether work waits and no step has ended for so long."""
        return self._has_work and _now() - self._progress_at > seconds

    @property
    def _has_work(self) -> bool:
        """Whether the engine owes an answer; a slow reader of a finished one is no work."""
        return any(not running.ended for running in self._running.values())

    def refuse_unless_serving(self) -> None:
        """Raises Unavailable with the reason while the engine takes no requests."""
        if self.state is EngineState.LOADING:
            raise Unavailable(f"model {self.name} is loading; try again soon", "LOADING", 1.0)
        if self.state is EngineState.RESTARTING:
            raise self._restarting()
        if self.state is EngineState.GIVEN_UP:
            raise Unavailable(f"the engine of model {self.name} could not be started again", "ENGINE_FAILED", 30.0)

    async def _load(self) -> None:
        loop = asyncio.get_running_loop()
        ready = self._ready = loop.create_future()
        try:
            link = await self._spawn()
        except OSError as error:
            raise SetupError(f"the engine of model {self.name} cannot be started: {error}") from error
        await asyncio.wait((ready, link.closed), return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            code = await self._reap(END_SECONDS)
            raise SetupError(f"the engine of model {self.name} {_ending(code)} while it was loading; the log says why")
        try:
            ready.result()
        except SetupError:
            await self._reap(END_SECONDS)
            raise
        self._serving_since = _now()
        self._become(EngineState.SERVING)

    async def _spawn(self) -> _Link:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                str(theirs.fileno()),
                *self._arguments,
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=2,  # what a library prints while it loads belongs to the log
                start_new_session=True,  # Ctrl-C is for the front end, which drains
            )
        loop = asyncio.get_running_loop()
        _, link = await loop.create_unix_connection(lambda: _Link(self._take_event), sock=ours)
        self._link = link
        return link

    def _take_event(self, event: pb.Event) -> None:
        if event.HasField("step"):
            self._take_step(event.step)
        elif self._ready is None or self._ready.done():
            return
        elif event.HasField("refused"):
            self._ready.set_exception(SetupError(event.refused.message))
        else:
            self.description = description_of(event.ready)
            self.limits = limits_of(event.ready)
            self.load = load_of(event.ready.load)
            self._ready.set_result(None)

    def _take_step(self, step: pb.Step) -> None:
        self._progress_at = _now()
        self.load = load_of(step.load)
        for row in step.rows:
            running = self._running.get(row.key)
            if running is not None:  # None: released while the step was running
                running.put(row_of(row))

    async def _keep_alive(self) -> None:
        tries = 0
        while True:
            if await self._until_ended() > STEADY_SECONDS:
                tries = 0
            if tries == MAX_TRIES:
                return self._become(EngineState.GIVEN_UP)
            await asyncio.sleep(FIRST_PAUSE_SECONDS * 2**tries)
            tries += 1
            try:
                await self._load()
            except SetupError as error:
                _log.error("try %d of %d to start it again: %s", tries, MAX_TRIES, error)

    async def _until_ended(self) -> float:
        """Waits for the end of the process and lets its requests go; for how many seconds it served."""
        if self._link is None:
            return 0.0
        await self._link.closed
        served_seconds = _now() - self._serving_since
        self._become(EngineState.RESTARTING)
        self.fail_running(self._restarting())
        _log.error("the engine of model %s %s", self.name, _ending(await self._reap(END_SECONDS)))
        return served_seconds

    def _restarting(self) -> Unavailable:
        message = f"the engine of model {self.name} ended and is being started again; try again soon"
        return Unavailable(message, "ENGINE_RESTARTING", 2.0)

    async def _reap(self, patience_seconds: float) -> int | None:
        """Closes the socket and waits for the process, which is killed when it takes too long."""
        if self._link is not None:
            self._link.close()
        process = self._process
        code = await self._exit_code(patience_seconds)
        if code is None and process is not None:
            with suppress(ProcessLookupError):  # it ended by itself just now
                process.kill()
            code = await process.wait()
        self._link = self._process = None
        return code

    async def _exit_code(self, patience_seconds: float) -> int | None:
        process = self._process
        if process is None or process.returncode is not None:
            return process.returncode if process else None
        try:
            return await asyncio.wait_for(process.wait(), patience_seconds)
        except TimeoutError:
            return process.returncode

    def _send(self, command: pb.Command) -> None:
        if self._link is not None:
            self._link.send(command)

    def _become(self, state: EngineState) -> None:
        self.state = state
        self._on_change()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was ended by signal {-code}"
    return f"ended with code {code}"
