"""The life of a server: bind, load, serve, drain, end."""

import asyncio
import errno
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ..engine.defaults import sampling_defaults
from ..models.chat import ChatTemplate
from ..models.errors import AddressError, SetupError
from ..models.host_memory import keep_little_memory
from ..models.locate import locate
from ..models.tokenizer import Tokenizer
from ..models.version import VERSION
from .admin import AdminService, Facts, Life
from .admin_door import AdminDoor, open_door
from .admission import Admission
from .byte_budget import ByteBudget
from .calls import Calls
from .catalog import Catalog, ServedModel, draining
from .chat import ServedChat
from .engine_process import WORKER, EngineProcess
from .exchange import TimeLimits
from .fleet import Fleet
from .generation import Generation
from .handlers import GENERATION, INFERENCE, MODELS, SCORING, add_service
from .health import HealthReporter
from .interceptor import CallGuard, Lane
from .logs import logs
from .long_prompts import LongPrompts
from .memory import memory_budget
from .oip import InferenceService
from .options import ServeOptions, check, loopback
from .prompts import Prompts
from .reflection import reflection_handlers
from .services import GenerationService, ModelsService, ScoringService
from .transport import channel_options, num_connections
from .watchdog import Patience

OFFERED = (GENERATION, SCORING, MODELS, INFERENCE)
ROOM_FOR_CALLS = 1024  # beside requests: model lists, reflection, and as many of probes
PATIENT_STALLS = 4  # stalls in a row, and the engine is killed
LAST_WORDS_SECONDS = 0.5  # for statuses on their way out


def _complain(sentence: str) -> None:
    sys.stderr.write(f"moesaic: error: {sentence}\n")


def serve(options: ServeOptions, worker: Sequence[str] = WORKER, complain: Callable[[str], None] = _complain) -> int:
    """Serves until SIGTERM or SIGINT and returns the exit code.

    0 after a drain; 2 when the server cannot start, with one sentence for `complain`. `worker` is the command of an
    engine process.
    """
    keep_little_memory()
    try:
        check(options)
        with logs():
            asyncio.run(_serve(options, worker))
        return 0
    except SetupError as error:
        complain(str(error))
        return 2


async def _serve(options: ServeOptions, worker: Sequence[str]) -> None:
    life = _life(options)
    changed = asyncio.Event()
    host = loopback(options.host)

    def make(name: str, path: str) -> ServedModel:
        return _served(name, path, options, changed, worker)

    catalog = Catalog([make(name, path) for name, path in options.models])
    budget = memory_budget(options.memory_budget, [model.path for model in catalog.models.values()], options.engine)
    fleet = Fleet(catalog, make, options.engine, budget, changed.set, options.drain_seconds)
    health = HealthReporter(catalog, changed, options.stall_seconds)
    connections = num_connections(options)
    generation = Generation(catalog, ByteBudget(options.max_request_bytes), options.log_requests)
    server = _grpc_server(options, connections, generation, fleet, health)
    address = _bind(server, host, options.port)
    admin = _admin(options, address, generation, fleet, life)
    health.report()
    await server.start()
    await admin.server.start()
    _say_configuration(options, address, connections)
    _say(f"the admin socket is {admin.path}" if admin.path else "there is no admin socket, its folder is not to be had")
    reporting = asyncio.create_task(health.run())
    try:
        if not await _load(catalog, life.stop):
            return
        health.report()
        _say_serving(catalog, address)
        await _first(reporting, life.stop.wait())
        if reporting.done():
            reporting.result()
        await _drain(catalog, health, life)
    finally:
        life.over.set()
        reporting.cancel()
        health.service.end()
        await fleet.end()
        models = (model.stop() for model in catalog.models.values())
        await asyncio.gather(server.stop(LAST_WORDS_SECONDS), admin.stop(LAST_WORDS_SECONDS), *models)


def _life(options: ServeOptions) -> Life:
    """One that a signal ends, and a second one at once."""
    life = Life(options.drain_seconds)

    def asked() -> None:
        (life.now if life.stop.is_set() else life.stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked)
    return life


def _admin(options: ServeOptions, address: str, generation: Generation, fleet: Fleet, life: Life) -> AdminDoor:
    facts = Facts((address,), {name: str(value) for name, value in _settings(options).items()}, time.monotonic())
    return open_door(options, int(address.rpartition(":")[2]), AdminService(generation, fleet, life, facts))


def _served(name: str, path: str, options: ServeOptions, changed: asyncio.Event, worker: Sequence[str]) -> ServedModel:
    folder = locate(path)
    patience = Patience(load=options.load_seconds, step=PATIENT_STALLS * options.stall_seconds)
    engine = EngineProcess(name, str(folder), options.engine, changed.set, worker, patience)
    admission = Admission(options.max_requests)
    tokenizer = Tokenizer.open(folder)
    prompts = Prompts(tokenizer, ServedChat(ChatTemplate.open(folder, tokenizer)), LongPrompts(folder))
    return ServedModel(engine, prompts, sampling_defaults(folder), admission, options.max_prompt_tokens, str(folder))


def _grpc_server(
    options: ServeOptions, connections: int, generation: Generation, fleet: Fleet, health: HealthReporter
) -> grpc.aio.Server:
    server = grpc.aio.server(interceptors=(_guard(options),), options=channel_options(options, connections))
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


def _guard(options: ServeOptions) -> CallGuard:
    room = ROOM_FOR_CALLS + options.max_requests * len(options.models)
    limits = TimeLimits(options.receive_seconds, options.write_seconds, options.request_seconds)
    watching = replace(limits, whole=None)
    return CallGuard(requests=Lane(Calls(room), limits), probes=Lane(Calls(ROOM_FOR_CALLS), watching))


def _bind(server: grpc.aio.Server, host: str, port: int) -> str:
    """The address listened on. Tried with a plain socket first, which says why it cannot be."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    shown = f"[{host}]" if ":" in host else host
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        return f"{shown}:{server.add_insecure_port(f'{shown}:{port}')}"
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


def _say_configuration(options: ServeOptions, address: str, connections: int) -> None:
    shown = [f"{name}={value}" for name, value in _settings(options).items() if name not in ("host", "port")]
    _say(f"moesaic {VERSION} listens on {address} and loads {', '.join(name for name, _ in options.models)}")
    _say("configuration: " + " ".join(shown))
    if connections < options.max_connections:
        asked = f"{options.max_connections} were asked for; raise the limit with ulimit -n"
        _say(f"room for {connections} connections, since this process may open few files; {asked}")


def _settings(options: ServeOptions) -> Mapping[str, object]:
    """What is in effect, by name, but for the models."""
    settings = {**asdict(options), **asdict(options.engine)}
    return {name: value for name, value in settings.items() if name not in ("models", "engine")}


def _say_serving(catalog: Catalog, address: str) -> None:
    for name, model in catalog.models.items():
        about = model.engine.description
        if about is not None:
            _say(
                f"{name}: {about.family}, {about.num_parameters:,} parameters, {about.weight_bytes:,} bytes, "
                f"context {about.max_context}, {about.num_slots} slots, {about.threads} threads, "
                f"{about.dtype} on {about.device}, {about.room}"
            )
        _say(f"serving {name} on {address}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
