"""What is served: the models with their engines, and the requests that are under way."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from ..engine.request import Limits
from ..engine.settings import Terms
from ..models.errors import InvalidRequest, NotFound, Unavailable, Violation
from ..models.suggestion import likely
from ..proto import generation_pb2 as pb
from .admission import Admission
from .engine_process import EngineProcess, EngineState
from .prompts import Prompts
from .under_way import AllUnderWay, UnderWay

_STATES = {
    EngineState.LOADING: pb.ModelInfo.LOADING,
    EngineState.SERVING: pb.ModelInfo.SERVING,
    EngineState.RESTARTING: pb.ModelInfo.FAILED,
}
_DESCRIBED = (
    "family", "num_parameters", "weight_bytes", "vocab_size", "max_context", "device", "dtype",
    "kv_tokens", "kv_bytes", "kv_cache",
)  # fmt: skip


class ServedModel:
    """One model: what makes ids of prompts, and its defaults, here; its engine in a process of its own."""

    def __init__(
        self,
        engine: EngineProcess,
        prompts: Prompts,
        defaults: Mapping[str, float | int],
        admission: Admission,
        max_prompt_tokens: int | None = None,
        path: str = "",
    ) -> None:
        self.name = engine.name
        self.engine = engine
        self.prompts = prompts
        self.defaults = defaults
        self.admission = admission
        self.path = path
        self._max_prompt_tokens = max_prompt_tokens
        self._stopping: asyncio.Task[None] | None = None
        self.counts = (
            True  # for the health of the whole server, and for no name; not while it comes or goes at run time
        )
        self.leaving = False
        self.unused = asyncio.Event()
        self.unused.set()
        self.num_users = 0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """A request of this model while the block runs. Raises Unavailable once it is being unloaded."""
        if self.leaving:
            raise self.unloaded()
        self.num_users += 1
        self.unused.clear()
        try:
            yield
        finally:
            self.num_users -= 1
            if not self.num_users:
                self.unused.set()

    def unloaded(self) -> Unavailable:
        """What a request is told once the model is being unloaded."""
        return Unavailable(f"model {self.name} is being unloaded; ask for another one", "UNLOADING", 0.0)

    def ready(self) -> Terms:
        """What the model brings to a request. Raises Unavailable while its engine takes no requests."""
        self.engine.refuse_unless_serving()
        if self.engine.limits is None or self.engine.description is None:
            raise RuntimeError(f"the engine of {self.name} serves and has not described itself")
        description = self.engine.description
        return Terms(self.defaults, self.engine.limits, description.dial, description.instead)

    def max_prompt_tokens(self, limits: Limits) -> int:
        """The limit on the tokens of all prompts in flight: as set, else 4 x context x slots."""
        if self._max_prompt_tokens is not None:
            return self._max_prompt_tokens
        return 4 * limits.max_context * (self.engine.load.num_slots if self.engine.load else 1)

    async def stop(self) -> None:
        """Ends its processes; several may ask for it."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        await self.prompts.long.end()
        self.prompts.chat.end()
        await self.engine.stop()

    def info(self, draining: bool) -> pb.ModelInfo:
        """What clients are told of it."""
        state = pb.ModelInfo.DRAINING if draining or self.leaving else _STATES[self.engine.state]
        info = pb.ModelInfo(name=self.name, state=state, chat=self.prompts.chat.available)
        info.tools = self.prompts.chat.tool_form is not None
        description, load = self.engine.description, self.engine.load
        if description is not None:
            for field in _DESCRIBED:
                setattr(info, field, getattr(description, field))
            info.pooling = description.pooling.kind if description.pooling else ""
            if description.labels:
                info.labels.extend(description.labels.names)
                info.problem_type = description.labels.problem
            info.stages.extend(description.stages)
            info.tiers.extend(description.tiers)
            info.tier_shares.extend(description.dial.shares)
        if load is not None and self.engine.state is EngineState.SERVING:
            info.load.MergeFrom(pb.Load(**asdict(load)))
        return info


class Catalog:
    """All models of one server, by name, and the requests under way, by caller and id."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.models = {model.name: model for model in models}
        self.problems: dict[str, str] = {}  # of models that are watched for, by name: why they cannot be loaded
        self.draining = False
        self.idle = asyncio.Event()
        self.idle.set()
        self.requests = AllUnderWay()

    def find(self, name: str, field: str) -> ServedModel:
        """The model of this name; empty means the only one, beside those that come or go. `field` is where the caller
        wrote it.
        """
        staying = [model for model in self.models.values() if model.counts]
        if not name and (len(staying) == 1 or len(self.models) == 1):
            return next(iter(staying or self.models.values()))
        if not name and self.models:
            raise InvalidRequest([Violation(field, f"is empty and several are served: {self._names()}")])
        if name not in self.models and name in self.problems:
            raise Unavailable(f"model {name} could not be loaded: {self.problems[name]}", "NOT_LOADED", 60.0)
        if name not in self.models:
            short = name[:64]
            meant = likely(short, self.models)
            there = f"there is: {self._names()}" if self.models else "there is none at all now"
            raise NotFound(f"no model {ascii(short)} is served here; {there}{meant}", short)
        return self.models[name]

    def infos(self) -> list[pb.ModelInfo]:
        """What clients are told of all models, those that could not be loaded last."""
        absent = [name for name in self.problems if name not in self.models]
        return [
            *(model.info(self.draining) for model in self.models.values()),
            *(pb.ModelInfo(name=name, state=pb.ModelInfo.FAILED, problem=self.problems[name]) for name in absent),
        ]

    @contextmanager
    def under_way(self, caller: str, request_id: str) -> Iterator[UnderWay]:
        """Counts a request while the block runs. Raises Unavailable when draining, AlreadyExists for the id of another
        one of the same caller.
        """
        if self.draining:
            raise draining()
        try:
            with self.requests.one(caller, request_id) as under_way:
                self.idle.clear()
                yield under_way
        finally:
            if not self.requests:
                self.idle.set()

    def gone(self, caller: str) -> None:
        """Gives up the turns of a caller that cannot come back."""
        for model in self.models.values():
            model.admission.gone(caller)

    def _names(self) -> str:
        return ", ".join(self.models)[:500]


def draining() -> Unavailable:
    """What a request is told once the server has been asked to end."""
    return Unavailable("this server is shutting down; send the request to another one", "DRAINING", 0.0)
