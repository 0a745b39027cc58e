"""Health by progress: SERVING means loaded, warmed up, not draining, and no work waits without a step ending."""

import asyncio

from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

from .catalog import Catalog, ServedModel
from .engine_process import EngineState
from .handlers import GENERATION, MODELS

_WHOLE_SERVER = ("", GENERATION.full_name, MODELS.full_name)
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthReporter:
    """Keeps the standard health service true: the whole server, our services, and `model:NAME` for each model."""

    def __init__(self, catalog: Catalog, changed: asyncio.Event, stall_seconds: float) -> None:
        self.servicer = HealthServicer()
        self._catalog = catalog
        self._changed = changed
        self._stall_seconds = stall_seconds

    async def run(self) -> None:
        """Reports at every change, and often enough to see a stall."""
        while True:
            await self.report()
            try:
                async with asyncio.timeout(min(1.0, self._stall_seconds / 4)):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()

    async def report(self) -> None:
        """Sets every name to what is true now. The whole server serves when each of its models does."""
        states = {f"model:{name}": self._serves(model) for name, model in self._catalog.models.items()}
        whole = all(states.values())
        for name, serves in {**dict.fromkeys(_WHOLE_SERVER, whole), **states}.items():
            await self.servicer.set(name, _SERVING if serves else _NOT_SERVING)

    def _serves(self, model: ServedModel) -> bool:
        engine = model.engine
        serving = engine.state is EngineState.SERVING and not engine.stalled(self._stall_seconds)
        return serving and not self._catalog.draining
