"""What a server is made of, put together: every port is had, and nothing runs yet."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from ..engine.defaults import sampling_defaults
from ..models.chat import ChatTemplate
from ..models.errors import SetupError
from ..models.locate import locate
from ..models.tokenizer import Tokenizer
from .admin import AdminService, Facts, Life
from .admin_door import AdminDoor, open_admin_door
from .admission import Admission
from .byte_budget import ByteBudget
from .catalog import Catalog, ServedModel
from .chat import ServedChat
from .config import Configuration
from .config_text import all_values
from .engine_process import EngineProcess
from .fleet import Fleet
from .generation import Generation
from .grpc_door import bind, grpc_server, health_server, time_limits
from .health import HealthReporter
from .http_door import open_door, open_metrics, start_door
from .listening import listening_address
from .long_prompts import LongPrompts
from .memory import memory_budget
from .options import ServeOptions
from .prompts import Prompts
from .security import Security, open_security
from .tracing import open_tracing
from .transport import num_connections
from .watchdog import Patience
from .watched import Watched

if TYPE_CHECKING:
    from .http.door import HttpDoor
    from .metrics import Metrics

PATIENT_STALLS = 4  # stalls in a row, and the engine is killed


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a server listens. web: the address of the HTTP door, probed: that for health alone; empty without."""

    address: str
    web: str
    probed: str
    num_connections: int


@dataclass(frozen=True, slots=True)
class Parts:
    """One server that is to be started."""

    ports: Ports
    security: Security
    health: HealthReporter
    generation: Generation
    fleet: Fleet
    admin: AdminDoor
    watched: Watched | None
    _metrics: "Metrics | None"
    _door: "HttpDoor | None"
    _servers: Sequence[grpc.aio.Server]
    _options: ServeOptions

    @property
    def catalog(self) -> Catalog:
        """The models."""
        return self.generation.catalog

    async def start(self) -> None:
        """Answers at every door from now on; what has no model yet is told so."""
        self.health.report()
        await asyncio.gather(*(each.start() for each in self._servers))
        if self._door is not None and self._metrics is not None:
            limits = time_limits(self._options)
            start_door(self._door, self.generation, self.health.service, self._metrics, limits, self.security)

    async def end(self, seconds: float) -> None:
        """Ends models and doors. seconds: for statuses on their way out."""
        self.health.service.end()
        await self.fleet.end()
        models = [model.stop() for model in self.catalog.models.values()]
        web = [] if self._door is None else [self._door.stop(seconds)]
        await asyncio.gather(*(each.stop(seconds) for each in self._servers), *web, *models)
        if self.generation.tracing is not None:
            await self.generation.tracing.end(seconds)
        self.admin.end()


def open_parts(configuration: Configuration, life: Life, worker: Sequence[str]) -> Parts:
    """Finds all that is wrong before anything is loaded. Raises SetupError."""
    options, changed = configuration.options, asyncio.Event()
    security = open_security(options)

    def make(name: str, path: str) -> ServedModel:
        return _served(name, path, options, changed, worker)

    catalog = Catalog([make(name, path) for name, path in options.models])
    budget = memory_budget(options.memory_budget, [model.path for model in catalog.models.values()], options.engine)
    fleet = Fleet(catalog, make, options.engine, budget, changed.set, options.drain_seconds)
    health = HealthReporter(catalog, changed, options.stall_seconds)
    metrics = open_metrics(options, catalog)
    tracing, held = open_tracing(options.otlp_traces_endpoint), ByteBudget(options.max_request_bytes)
    generation = Generation(catalog, held, metrics, options.log_requests, tracing)
    connections = num_connections(options)
    server = grpc_server(options, connections, generation, fleet, health.service, security.access)
    address = bind(server, options.host, options.port, "--port", security.credentials)
    servers, probed = [server], ""
    if options.health_port is not None:
        servers.append(health_server(options, health.service))
        probed = bind(servers[-1], options.host, options.health_port, "--health-port")
    door = open_door(options, listening_address(options.host), connections)
    web = "" if door is None else f"{'http' if security.certificates is None else 'https'}://{door.address}"
    try:
        admin = _admin(configuration, address, web, generation, fleet, life)
    except SetupError:
        if door is not None:
            door.close()
        raise
    ports = Ports(address, web, probed, connections)
    watched = None if options.watch is None else Watched(Path(options.watch).absolute(), fleet, changed.set)
    servers.append(admin.server)
    return Parts(ports, security, health, generation, fleet, admin, watched, metrics, door, servers, options)


def _served(name: str, path: str, options: ServeOptions, changed: asyncio.Event, worker: Sequence[str]) -> ServedModel:
    folder = locate(path)
    patience = Patience(load=options.load_seconds, step=PATIENT_STALLS * options.stall_seconds)
    engine = EngineProcess(name, str(folder), options.engine, changed.set, worker, patience)
    admission = Admission(options.max_requests)
    tokenizer = Tokenizer.open(folder)
    prompts = Prompts(tokenizer, ServedChat(ChatTemplate.open(folder, tokenizer)), LongPrompts(folder))
    return ServedModel(engine, prompts, sampling_defaults(folder), admission, options.max_prompt_tokens, str(folder))


def _admin(
    configuration: Configuration, address: str, web: str, generation: Generation, fleet: Fleet, life: Life
) -> AdminDoor:
    values = {name: str(value) for name, value in all_values(configuration).items()}
    facts = Facts([each for each in (address, web) if each], values, time.monotonic())
    service = AdminService(generation, fleet, life, facts)
    return open_admin_door(configuration.options, int(address.rpartition(":")[2]), service)
