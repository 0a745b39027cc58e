"""The front end's side of one engine process: start it, talk to it, start it again when it ends."""

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from enum import Enum

from ..engine.options import EngineOptions, ModelDescription
from ..engine.receipt import Receipt
from ..engine.request import Limits, Load, Request
from ..models.errors import SetupError, Unavailable
from ..proto import engine_pb2 as pb
from .backoff import pause_seconds
from .credits import Credits
from .engine_child import EngineChild
from .fields import load_of
from .messages import description_of, limits_of, row_of
from .running import Running
from .turnstile import Turnstile
from .watchdog import Patience

WORKER = (sys.executable, "-P", "-m", "moesaic.server.worker")
STEADY_SECONDS = 60.0  # an engine that lived so long is started again at once
END_SECONDS = 2.0  # for a process whose socket is closed, before it is killed
STOP_SECONDS = 0.5  # the same for one that is asked to end; it has nothing to save

_log = logging.getLogger(__name__)


class EngineState(Enum):
    """Where an engine process is in its life."""

    LOADING = "loading"
    SERVING = "serving"
    RESTARTING = "restarting"


class EngineProcess:
    """One engine process and the requests that are in it.

    `start` returns when the model has answered a warm-up request. From then on a process that ends, is silent or hangs
    is started again, as often as it takes, and its requests fail with Unavailable. `on_change` is called when the
    state changes.
    """

    def __init__(
        self,
        name: str,
        path: str,
        options: EngineOptions,
        on_change: Callable[[], None],
        worker: Sequence[str] = WORKER,
        patience: Patience = Patience(),  # noqa: B008  # frozen
    ) -> None:
        self.name = name
        self.state = EngineState.LOADING
        self.description: ModelDescription | None = None
        self.limits: Limits | None = None
        self._command, self._arguments = (*worker,), (path, json.dumps(asdict(options)))
        self._on_change = on_change
        self._patience = patience
        self._turnstile = Turnstile()
        self._next_key = 1
        self._refused: Unavailable | None = None  # what requests are told for good
        self._load: Load | None = None
        self._credits: Credits | None = None  # of the process that serves
        self._child: EngineChild | None = None
        self._ready: asyncio.Future[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._serving_since = self._progress_at = 0.0
        self._load_seconds = 1.0  # of the last load
        self._again_at = 0.0  # when the next load begins

    async def start(self) -> None:
        """Loads the model. Raises SetupError with one sentence when that is not possible."""
        await self._load_model()
        self._keeper = asyncio.create_task(self._keep_alive())

    async def stop(self) -> None:
        """Ends the process, kindly when it is in its loop, else at once."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))
        if self._child is not None and self.state is EngineState.SERVING:
            self._child.link.send(pb.Command(shutdown=pb.Shutdown()))
            await self._child.exits_within(STOP_SECONDS)
        await self._end(0.0)

    def submit(self, request: Request) -> Running:
        """Takes in a request, under a key of its own, for when the engine has room. Every one must be released."""
        self.refuse_unless_serving()
        if self.description is None or self._credits is None:
            raise RuntimeError(f"the engine of {self.name} serves and has not described itself")
        running = Running(self._next_key, request.sampling.n, Receipt(request, self.description), self._turnstile)
        self._next_key += 1
        if not self._owes():
            self._progress_at = _now()
        self._credits.add(replace(request, arrived_seconds=_now()), running)
        return running

    def release(self, running: Running) -> None:
        """Frees what the request holds; it is aborted if it still runs. Twice is once."""
        if self._credits is not None:
            self._credits.drop(running)

    def end_answer(self, running: Running, choice: int) -> None:
        """Has the engine make no more of one of a request's answers, which has ended here."""
        if self._credits is not None:
            self._credits.end_answer(running, choice)

    def fail_running(self, error: Unavailable) -> None:
        """Ends every request with `error`; their handlers release them."""
        if self._credits is not None:
            self._credits.fail(error)

    def refuse(self, error: Unavailable) -> None:
        """Ends every request with `error`, and those to come."""
        self._refused = error
        self.fail_running(error)

    def stalled(self, seconds: float) -> bool:
        """Whether work waits and no step has ended for so long."""
        return self.step_age > seconds

    @property
    def step_age(self) -> float:
        """Seconds since a step ended, while work waits; else 0."""
        return _now() - self._progress_at if self._owes() else 0.0

    @property
    def load(self) -> Load | None:
        """How full the engine is; those that it does not have yet wait too."""
        if self._load is None or self._credits is None:
            return self._load
        return replace(self._load, waiting=self._load.waiting + self._credits.num_held)

    def refuse_unless_serving(self) -> None:
        """Raises Unavailable with the reason while the engine takes no requests."""
        if self._refused is not None:
            raise self._refused
        if self.state is EngineState.LOADING:
            raise Unavailable(f"model {self.name} is loading; try again soon", "LOADING", 1.0)
        if self.state is EngineState.RESTARTING:
            raise self._restarting()

    async def _load_model(self) -> None:
        began = _now()
        ready = self._ready = asyncio.get_running_loop().create_future()
        try:
            child = self._child = await EngineChild.start(
                self.name, self._command, self._arguments, self._patience,
                self._take_event, self._hand_over, self._owes,
            )  # fmt: skip
        except OSError as error:
            raise SetupError(f"the engine of model {self.name} cannot be started: {error}") from error
        await asyncio.wait((ready, child.link.closed), return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ending = await self._end(END_SECONDS)
            raise SetupError(f"the engine of model {self.name} {ending} while it was loading; the log says why")
        if ready.exception() is not None:
            await self._end(END_SECONDS)
        ready.result()
        child.served = True
        self._serving_since = _now()
        self._load_seconds = self._serving_since - began
        self._become(EngineState.SERVING)

    def _take_event(self, event: pb.Event) -> None:
        if event.HasField("step"):
            self._take_step(event.step)
        elif event.HasField("beat"):
            self._expire()
        elif self._ready is None or self._ready.done():
            return
        elif event.HasField("refused"):
            self._ready.set_exception(SetupError(event.refused.message))
        else:
            self._take_ready(event.ready)
            self._ready.set_result(None)

    def _take_ready(self, ready: pb.Ready) -> None:
        self.description = description_of(ready)
        self.limits = limits_of(ready)
        self._load = load_of(ready.load)
        self._credits = Credits(self._load.num_slots, self._send, self._has_room)

    def _send(self, command: pb.Command) -> None:
        if self._child is not None:
            self._child.link.send(command)

    def _has_room(self) -> bool:
        return self._child is not None and self._child.link.has_room

    def _take_step(self, step: pb.Step) -> None:
        self._progress_at = _now()
        self._load = load_of(step.load)
        if self._credits is not None:
            for row in step.rows:
                self._credits.row(row_of(row))
            self._credits.obeyed(step.num_obeyed)
        self._expire()

    def _owes(self) -> bool:
        return self._credits is not None and self._credits.owed

    def _expire(self) -> None:
        if self._credits is not None:
            self._credits.expire(_now())

    def _hand_over(self) -> None:
        if self._credits is not None:
            self._credits.hand_over()

    async def _keep_alive(self) -> None:
        tries = 0
        while True:
            if await self._until_ended() > STEADY_SECONDS:
                tries = 0
            tries = await self._start_again(tries)

    async def _start_again(self, tries: int) -> int:
        """Tries until it serves, more and more slowly; gives how many tries that took, with those before."""
        while True:
            pause = pause_seconds(tries)
            self._again_at = _now() + pause
            tries += 1
            _log.warning("the engine of model %s is started again in %.1f s, try %d", self.name, pause, tries)
            await asyncio.sleep(pause)
            try:
                await self._load_model()
                return tries
            except SetupError as error:
                _log.error("try %d: %s", tries, error)

    async def _until_ended(self) -> float:
        """Waits for the end of the process and lets its requests go; for how many seconds it served."""
        if self._child is not None:
            await self._child.link.closed
        served_seconds = _now() - self._serving_since
        self._again_at = _now()
        self._become(EngineState.RESTARTING)
        self.fail_running(self._restarting())
        self._credits = None
        _log.error("the engine of model %s %s", self.name, await self._end(END_SECONDS))
        return served_seconds

    def _restarting(self) -> Unavailable:
        """What callers are told; they may come back when it should serve again."""
        message = f"the engine of model {self.name} ended and is being started again; try again soon"
        seconds = max(self._again_at - _now(), 0.0) + self._load_seconds
        return Unavailable(message, "ENGINE_RESTARTING", max(seconds, 1.0))

    async def _end(self, patience_seconds: float) -> str:
        """Ends what there is of a process; how it has ended, in words."""
        if self._child is None:
            return "is not there"
        ending = await self._child.end(patience_seconds)
        self._child = None
        return ending

    def _become(self, state: EngineState) -> None:
        self.state = state
        self._on_change()


def _now() -> float:
    return asyncio.get_running_loop().time()
