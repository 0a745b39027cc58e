"""The life of a server: bind, load, serve, drain, end."""

import asyncio
import errno
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ..engine.defaults import sampling_defaults
from ..models.chat import ChatTemplate
from ..models.errors import AddressError, SetupError
from ..models.host_memory import keep_little_memory
from ..models.locate import locate
from ..models.tokenizer import Tokenizer
from ..models.version import VERSION
from .access import Access
from .admin import AdminService, Facts, Life
from .admin_door import AdminDoor, open_admin_door
from .admission import Admission
from .byte_budget import ByteBudget
from .calls import Calls
from .catalog import Catalog, ServedModel, draining
from .chat import ServedChat
from .config import Configuration
from .config_text import all_values, start_lines
from .engine_process import WORKER, EngineProcess
from .exchange import TimeLimits
from .fleet import Fleet
from .generation import Generation
from .handlers import GENERATION, INFERENCE, MODELS, SCORING, add_service
from .health import HealthReporter
from .http_door import missing, open_door, open_metrics, start_door
from .interceptor import CallGuard, Lane
from .listening import listening_address
from .logs import logs
from .long_prompts import LongPrompts
from .memory import memory_budget
from .oip import InferenceService
from .options import ServeOptions, check
from .prompts import Prompts
from .reflection import reflection_handlers
from .reloaded import look_after
from .security import open_security
from .services import GenerationService, ModelsService, ScoringService
from .transport import PROBE_CONNECTIONS, channel_options, num_connections
from .watchdog import Patience

OFFERED = (GENERATION, SCORING, MODELS, INFERENCE)
ROOM_FOR_CALLS = 1024  # beside requests: model lists, reflection, and as many of probes
PATIENT_STALLS = 4  # stalls in a row, and the engine is killed
LAST_WORDS_SECONDS = 0.5  # for statuses on their way out


def _complain(sentence: str) -> None:
    sys.stderr.write(f"moesaic: error: {sentence}\n")


def serve(
    options: ServeOptions,
    worker: Sequence[str] = WORKER,
    complain: Callable[[str], None] = _complain,
    origins: Mapping[str, str] | None = None,
) -> int:
    """Serves until SIGTERM or SIGINT and returns the exit code.

    0 after a drain; 2 when the server cannot start, with one sentence for `complain`. `worker` is the command of an
    engine process. origins: of settings that are no defaults, where each comes from.
    """
    keep_little_memory()
    try:
        check(options)
        with logs():
            asyncio.run(_serve(Configuration(options, origins or {}), worker))
        return 0
    except SetupError as error:
        complain(str(error))
        return 2


async def _serve(configuration: Configuration, worker: Sequence[str]) -> None:
    options = configuration.options
    life = _life(options)
    changed = asyncio.Event()
    security = open_security(options)

    def make(name: str, path: str) -> ServedModel:
        return _served(name, path, options, changed, worker)

    catalog = Catalog([make(name, path) for name, path in options.models])
    budget = memory_budget(options.memory_budget, [model.path for model in catalog.models.values()], options.engine)
    fleet = Fleet(catalog, make, options.engine, budget, changed.set, options.drain_seconds)
    health = HealthReporter(catalog, changed, options.stall_seconds)
    connections = num_connections(options)
    metrics = open_metrics(options, catalog)
    generation = Generation(catalog, ByteBudget(options.max_request_bytes), metrics, options.log_requests)
    server = _grpc_server(options, connections, generation, fleet, health, security.access)
    address = _bind(server, options.host, options.port, security.credentials)
    door = open_door(options, listening_address(options.host), connections)
    admin = _admin(configuration, address, generation, fleet, life)
    servers = [server, admin.server]
    health.report()
    if options.health_port is not None:
        servers.append(_health_server(options, health))
        probed = _bind(servers[-1], options.host, options.health_port)
    await asyncio.gather(*(each.start() for each in servers))
    if door is not None and metrics is not None:
        start_door(door, generation, health.service, metrics, _limits(options), security)
    web = "" if door is None else f"{'http' if security.certificates is None else 'https'}://{door.address}"
    _say_configuration(configuration, address, connections, web)
    _say(f"the admin socket is {admin.path}" if admin.path else "there is no admin socket, its folder is not to be had")
    for line in security.told:
        _say(line)
    if options.health_port is not None:
        _say(f"health alone, without TLS, on {probed}")
    reporting = asyncio.create_task(health.run())
    end_looking = look_after(security.reloaded)
    try:
        if not await _load(catalog, life.stop):
            return
        health.report()
        _say_serving(catalog, address, web)
        await _first(reporting, life.stop.wait())
        if reporting.done():
            reporting.result()
        await _drain(catalog, health, life)
    finally:
        life.over.set()
        reporting.cancel()
        end_looking()
        health.service.end()
        await fleet.end()
        models = (model.stop() for model in catalog.models.values())
        doors = [
            *(each.stop(LAST_WORDS_SECONDS) for each in servers),
            *([door.stop(LAST_WORDS_SECONDS)] if door else []),
        ]
        await asyncio.gather(*doors, *models)
        admin.end()


def _life(options: ServeOptions) -> Life:
    """One that a signal ends, and a second one at once."""
    life = Life(options.drain_seconds)

    def asked() -> None:
        (life.now if life.stop.is_set() else life.stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked)
    return life


def _admin(configuration: Configuration, address: str, generation: Generation, fleet: Fleet, life: Life) -> AdminDoor:
    facts = Facts((address,), {name: str(value) for name, value in all_values(configuration).items()}, time.monotonic())
    service = AdminService(generation, fleet, life, facts)
    return open_admin_door(configuration.options, int(address.rpartition(":")[2]), service)


def _served(name: str, path: str, options: ServeOptions, changed: asyncio.Event, worker: Sequence[str]) -> ServedModel:
    folder = locate(path)
    patience = Patience(load=options.load_seconds, step=PATIENT_STALLS * options.stall_seconds)
    engine = EngineProcess(name, str(folder), options.engine, changed.set, worker, patience)
    admission = Admission(options.max_requests)
    tokenizer = Tokenizer.open(folder)
    prompts = Prompts(tokenizer, ServedChat(ChatTemplate.open(folder, tokenizer)), LongPrompts(folder))
    return ServedModel(engine, prompts, sampling_defaults(folder), admission, options.max_prompt_tokens, str(folder))


def _grpc_server(
    options: ServeOptions,
    connections: int,
    generation: Generation,
    fleet: Fleet,
    health: HealthReporter,
    access: Access,
) -> grpc.aio.Server:
    server = grpc.aio.server(interceptors=(_guard(options, access),), options=channel_options(options, connections))
    add_service(server, GENERATION, GenerationService(generation))
    add_service(server, SCORING, ScoringService(generation))
    add_service(server, MODELS, ModelsService(generation.catalog))
    inference = InferenceService(generation, fleet, health.service, options.repository_control)
    add_service(server, INFERENCE, inference)
    health_pb2_grpc.add_HealthServicer_to_server(health.service, server)
    if options.reflection:
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        server.add_generic_rpc_handlers(reflection_handlers((*(each.full_name for each in OFFERED), health_name)))
    return server


def _health_server(options: ServeOptions, health: HealthReporter) -> grpc.aio.Server:
    """For probes that speak no TLS."""
    guard = _guard(options, Access())
    server = grpc.aio.server(interceptors=(guard,), options=channel_options(options, PROBE_CONNECTIONS))
    health_pb2_grpc.add_HealthServicer_to_server(health.service, server)
    return server


def _guard(options: ServeOptions, access: Access) -> CallGuard:
    room = ROOM_FOR_CALLS + options.max_requests * len(options.models)
    limits = _limits(options)
    watching = replace(limits, whole=None)
    return CallGuard(requests=Lane(Calls(room), limits), probes=Lane(Calls(ROOM_FOR_CALLS), watching), access=access)


def _limits(options: ServeOptions) -> TimeLimits:
    return TimeLimits(options.receive_seconds, options.write_seconds, options.request_seconds)


def _bind(server: grpc.aio.Server, given: str, port: int, credentials: grpc.ServerCredentials | None = None) -> str:
    """The address listened on. Tried with a plain socket first, which says why it cannot be."""
    host = listening_address(given)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    shown = f"[{host}]" if ":" in host else host
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        where = f"{shown}:{port}"
        bound = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
        return f"{shown}:{bound}"
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno != errno.EADDRINUSE:
            raise AddressError(f"{shown}:{port} cannot be listened on: {error.strerror}") from None
        way_out = "stop it, or choose another port with --port (0 takes any free one)"
        raise AddressError(f"{shown}:{port} is taken by another program; {way_out}") from None


async def _load(catalog: Catalog, stop: asyncio.Event) -> bool:
    """Starts every engine; False when the server was asked to end first. Raises SetupError."""
    loading = asyncio.gather(*(model.engine.start() for model in catalog.models.values()))
    await _first(loading, stop.wait())
    if loading.done():
        loading.result()
        return not stop.is_set()
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    return False


async def _drain(catalog: Catalog, health: HealthReporter, life: Life) -> None:
    """Refuses what is new, lets what runs go on for a while, then ends it with a status that says why."""
    catalog.draining = True
    health.report()
    await _first(catalog.idle.wait(), life.now.wait(), asyncio.sleep(life.drain_seconds))
    life.num_left = len(catalog.requests)
    life.over.set()
    for model in catalog.models.values():
        model.engine.refuse(draining())


async def _first(*awaitables: object) -> None:
    """Returns when one of them is done; coroutines that are not are cancelled."""
    own = [asyncio.ensure_future(item) for item in awaitables if asyncio.iscoroutine(item)]
    given = [item for item in awaitables if isinstance(item, asyncio.Future)]
    try:
        await asyncio.wait((*own, *given), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in own:
            task.cancel()


def _say_configuration(configuration: Configuration, address: str, connections: int, web: str) -> None:
    options = configuration.options
    _say(f"moesaic {VERSION} listens on {address} and loads {', '.join(name for name, _ in options.models)}")
    for line in start_lines(configuration):
        _say(line)
    if options.http:
        _say(f"HTTP at {web}" if web else missing())
    if connections < options.max_connections:
        asked = f"{options.max_connections} were asked for; raise the limit with ulimit -n"
        _say(f"room for {connections} connections, since this process may open few files; {asked}")


def _say_serving(catalog: Catalog, address: str, web: str) -> None:
    for name, model in catalog.models.items():
        about = model.engine.description
        if about is not None:
            _say(
                f"{name}: {about.family}, {about.num_parameters:,} parameters, {about.weight_bytes:,} bytes, "
                f"context {about.max_context}, {about.num_slots} slots, {about.threads} threads, "
                f"{about.dtype} on {about.device}, {about.room}"
            )
        _say(f"serving {name} on {address}")
    if web:
        _say(f"page to try it: {web}/  OpenAI's API: {web}/v1")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
