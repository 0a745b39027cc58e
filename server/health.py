"""Health by progress: SERVING means loaded, warmed up, not draining, and no work waits without a step ending."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

from .catalog import Catalog, ServedModel
from .engine_process import EngineState
from .handlers import GENERATION, INFERENCE, MODELS, SCORING

_WHOLE_SERVER = ("", *(service.full_name for service in (GENERATION, SCORING, MODELS, INFERENCE)))
_SERVING, _NOT_SERVING = pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING


class HealthService(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """grpc.health.v1.Health. Telling it something waits for nobody: each watcher fetches what is newest when it can."""

    def __init__(self) -> None:
        self._statuses: Mapping[str, int] = {}
        self._changed = asyncio.Event()
        self._ended = False

    def tell(self, statuses: Mapping[str, int]) -> None:
        """Makes these the statuses of the names that there are."""
        if statuses != self._statuses:
            self._statuses = statuses
            self._wake()

    def serves(self, name: str) -> bool:
        """Whether what has this name serves; what there is not does not."""
        return bool(self._statuses.get(name) == _SERVING)

    def end(self) -> None:
        """Lets every watcher go, once it has what is newest."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: pb.HealthCheckRequest, context: grpc.aio.ServicerContext) -> pb.HealthCheckResponse:
        """The status of a name; NOT_FOUND for one that there is not."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "there is no service of this name")
        return pb.HealthCheckResponse(status=status)

    # An older grpc_health has no such method and never calls this one: its types are named, not looked up.
    async def List(self, request: "pb.HealthListRequest", context: grpc.aio.ServicerContext) -> "pb.HealthListResponse":
        """All names with their statuses."""
        each = {name: pb.HealthCheckResponse(status=status) for name, status in self._statuses.items()}
        return pb.HealthListResponse(statuses=each)

    async def Watch(
        self, request: pb.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        """The status of a name, and again whenever it is another; of a slow watcher's many, the newest."""
        told = None
        while True:
            changed, ended = self._changed, self._ended
            status = self._statuses.get(request.service, pb.HealthCheckResponse.SERVICE_UNKNOWN)
            if status != told:
                yield pb.HealthCheckResponse(status=status)
                told = status
            if ended:
                return
            await changed.wait()


class HealthReporter:
    """Keeps the health service true: the whole server, our services, and `model:NAME` for each model."""

    def __init__(self, catalog: Catalog, changed: asyncio.Event, stall_seconds: float) -> None:
        self.service = HealthService()
        self._catalog = catalog
        self._changed = changed
        self._stall_seconds = stall_seconds

    async def run(self) -> None:
        """Reports at every change, and often enough to see a stall."""
        while True:
            self.report()
            try:
                async with asyncio.timeout(min(1.0, self._stall_seconds / 4)):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()

    def report(self) -> None:
        """Tells what is true now. The whole server serves when each model does that neither comes nor goes."""
        states = {f"model:{name}": self._serves(model) for name, model in self._catalog.models.items()}
        counting = [states[f"model:{name}"] for name, model in self._catalog.models.items() if model.counts]
        whole = bool(counting) and all(counting)
        absent = {f"model:{name}": False for name in self._catalog.problems}
        serve = {**dict.fromkeys(_WHOLE_SERVER, whole), **absent, **states}
        self.service.tell({name: _SERVING if serves else _NOT_SERVING for name, serves in serve.items()})

    def _serves(self, model: ServedModel) -> bool:
        engine = model.engine
        serving = engine.state is EngineState.SERVING and not engine.stalled(self._stall_seconds)
        return serving and not model.leaving and not self._catalog.draining
