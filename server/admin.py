"""moesaic.admin.v1: what whoever runs a server may do with it while it runs."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import grpc

from ..models.bounds import Bound
from ..models.chat import MAX_MESSAGES
from ..models.errors import InvalidRequest, Violation
from ..models.version import VERSION
from ..proto import admin_pb2 as pb
from ..proto import generation_pb2
from .batch import MOST_REQUESTS
from .catalog import ServedModel
from .fleet import Fleet
from .generation import Generation
from .many import MOST_AT_A_TIME
from .prompts import MAX_TEXT_BYTES
from .scoring import MOST_CHARACTERS, MOST_CONTINUATIONS
from .texts import MOST_IDS
from .transport import MAX_MESSAGE_BYTES
from .wire_limits import MOST_FIELDS

SCHEMA_REVISION = 1
LIMITS: Mapping[str, int] = {
    "message_bytes": MAX_MESSAGE_BYTES,
    "message_fields": MOST_FIELDS,
    "text_bytes": MAX_TEXT_BYTES,
    "chat_messages": MAX_MESSAGES,
    "batch_requests": MOST_REQUESTS,
    "batch_at_a_time": MOST_AT_A_TIME,
    "score_continuations": MOST_CONTINUATIONS,
    "score_characters": MOST_CHARACTERS,
    "detokenize_ids": MOST_IDS,
}
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_TICK_SECONDS = 0.25  # between looks at how many requests are left
_SECONDS = Bound(0, 1e9, whole=False)
_logger = logging.getLogger("moesaic")


@dataclass(slots=True)
class Life:
    """How a server ends. stop: it was asked to; now: not to wait any longer; over: it waits for nothing any more, and
    so many requests were left.
    """

    drain_seconds: float
    num_left: int = 0
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    now: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server has been started with; since: a time.monotonic()."""

    addresses: Sequence[str]
    configuration: Mapping[str, str]
    since: float


class AdminService:
    """Every method of admin.proto. Nobody but the owner of the socket can call them."""

    def __init__(self, generation: Generation, fleet: Fleet, life: Life, facts: Facts) -> None:
        self._generation, self._fleet, self._life, self._facts = generation, fleet, life, facts

    async def GetServerInfo(self, message: pb.GetServerInfoRequest, context: grpc.aio.ServicerContext) -> pb.ServerInfo:
        """Version, addresses, models and the configuration in effect."""
        return pb.ServerInfo(
            version=VERSION,
            schema_revision=SCHEMA_REVISION,
            addresses=self._facts.addresses,
            uptime_seconds=time.monotonic() - self._facts.since,
            models=[self._memory(model) for model in self._generation.catalog.models.values()],
            configuration=self._facts.configuration,
            memory_budget=self._fleet.budget,
            log_level=_level(),
            limits=LIMITS,
        )

    async def GetLoad(self, message: pb.GetLoadRequest, context: grpc.aio.ServicerContext) -> pb.GetLoadResponse:
        """How full the server and each of its models is."""
        catalog, budget = self._generation.catalog, self._generation.budget
        return pb.GetLoadResponse(
            draining=catalog.draining,
            requests=len(catalog.requests),
            request_bytes=budget.held,
            max_request_bytes=budget.most,
            models=[_load(model) for model in catalog.models.values()],
        )

    async def Abort(self, message: pb.AbortRequest, context: grpc.aio.ServicerContext) -> pb.AbortResponse:
        """Ends the requests of an id."""
        if not message.request_id:
            raise InvalidRequest([Violation("request_id", "is empty; name the request that is to be ended")])
        return pb.AbortResponse(aborted=self._generation.catalog.requests.abort(message.request_id, message.caller))

    async def Drain(
        self, message: pb.DrainRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.DrainProgress]:
        """Ends the server as SIGTERM does, and says how many requests are left until it ends."""
        told, requests, life = -1, self._generation.catalog.requests, self._life
        self._drain(_seconds(message))
        while len(requests) and not life.over.is_set():
            if len(requests) != told:
                told = len(requests)
                yield pb.DrainProgress(requests_left=told)
            await asyncio.sleep(_TICK_SECONDS)
        yield pb.DrainProgress(requests_left=life.num_left, done=True)

    async def SetLogLevel(
        self, message: pb.SetLogLevelRequest, context: grpc.aio.ServicerContext
    ) -> pb.SetLogLevelResponse:
        """Logs more or less from now on."""
        if message.level not in LEVELS:
            text = f"is {ascii(message.level[:20])}, it must be {', '.join(LEVELS[:-1])} or {LEVELS[-1]}"
            raise InvalidRequest([Violation("level", text)])
        before = _level()
        _logger.setLevel(message.level)
        return pb.SetLogLevelResponse(before=before)

    async def LoadModel(self, message: pb.LoadModelRequest, context: grpc.aio.ServicerContext) -> pb.ModelMemory:
        """Returns when the model serves."""
        return self._memory(await self._fleet.load(message.name, message.path or message.name))

    async def UnloadModel(
        self, message: pb.UnloadModelRequest, context: grpc.aio.ServicerContext
    ) -> pb.UnloadModelResponse:
        """Returns when the model is gone."""
        return pb.UnloadModelResponse(ended=await self._fleet.unload(message.name, _seconds(message)))

    def _drain(self, seconds: float | None) -> None:
        """From now on, not from when the server has noticed. Of two that name a time the first to be over counts."""
        life = self._life
        self._generation.catalog.draining = True
        if life.stop.is_set():
            if seconds is not None:
                asyncio.get_running_loop().call_later(seconds, life.now.set)
            return
        life.drain_seconds = life.drain_seconds if seconds is None else seconds
        life.stop.set()

    def _memory(self, model: ServedModel) -> pb.ModelMemory:
        state = generation_pb2.ModelInfo.State.Name(model.info(self._generation.catalog.draining).state)
        return pb.ModelMemory(name=model.name, path=model.path, state=state, memory_bytes=self._fleet.memory_of(model))


def _seconds(message: pb.DrainRequest | pb.UnloadModelRequest) -> float | None:
    """What was asked for, None where it was left out."""
    if not message.HasField("seconds"):
        return None
    if not _SECONDS.holds(message.seconds):
        rule = f"it must be {_SECONDS.rule}; leave it out for --drain-seconds"
        raise InvalidRequest([Violation("seconds", f"is {message.seconds:g}, {rule}")])
    return message.seconds


def _load(model: ServedModel) -> pb.ModelLoad:
    admission, load = model.admission, model.engine.load
    return pb.ModelLoad(
        name=model.name,
        requests=admission.num_requests,
        max_requests=admission.max_requests,
        prompt_tokens=admission.num_prompt_tokens,
        **({} if load is None else asdict(load)),
    )


def _level() -> str:
    return logging.getLevelName(_logger.getEffectiveLevel())
