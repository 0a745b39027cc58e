"""The doors of gRPC: every service behind one guard, and a port for probes that speak no TLS."""

import errno
import socket
from collections.abc import Mapping
from dataclasses import replace

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .access import Access
from .calls import Calls
from .exchange import TimeLimits
from .fleet import Fleet
from .generation import Generation
from .handlers import GENERATION, INFERENCE, MODELS, SCORING, add_service
from .health import HealthService
from .interceptor import CallGuard, CheckRoom, Lane
from .listening import cannot_listen, listening_address, place
from .oip import InferenceService
from .options import ServeOptions
from .reflection import reflection_handlers
from .services import GenerationService, ModelsService, ScoringService
from .tracing import Tracing
from .transport import PROBE_CONNECTIONS, channel_options
from .writes import Writes

OFFERED = (GENERATION, SCORING, MODELS, INFERENCE)
ROOM_FOR_CALLS = 1024  # beside requests: model lists, reflection, and as many of probes


def grpc_server(
    options: ServeOptions, connections: int, generation: Generation, fleet: Fleet, health: HealthService, access: Access
) -> grpc.aio.Server:
    """One that offers everything but administration, and listens nowhere yet."""
    check_room = {
        f"/{GENERATION.full_name}/{method}": generation.check_room for method in ("Generate", "GenerateStream")
    }
    guard = _guard(options, access, generation.tracing, check_room)
    server = grpc.aio.server(interceptors=(guard,), options=channel_options(options, connections))
    add_service(server, GENERATION, GenerationService(generation))
    add_service(server, SCORING, ScoringService(generation))
    add_service(server, MODELS, ModelsService(generation.catalog))
    add_service(server, INFERENCE, InferenceService(generation, fleet, health, options.repository_control))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if options.reflection:
        health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
        server.add_generic_rpc_handlers(reflection_handlers((*(each.full_name for each in OFFERED), health_name)))
    return server


def health_server(options: ServeOptions, health: HealthService) -> grpc.aio.Server:
    """One for probes."""
    guard = _guard(options, Access())
    server = grpc.aio.server(interceptors=(guard,), options=channel_options(options, PROBE_CONNECTIONS))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    return server


def bind(
    server: grpc.aio.Server, given: str, port: int, flag: str, credentials: grpc.ServerCredentials | None = None
) -> str:
    """Has a server listen; the address. Tried with a plain socket first, which says why it cannot be.

    Raises AddressError. flag: where another port is asked for.
    """
    host = listening_address(given)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    where = place(host, port)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        bound = server.add_secure_port(where, credentials) if credentials else server.add_insecure_port(where)
        return place(host, bound)
    except OSError as error:
        raise cannot_listen(where, flag, error) from None
    except RuntimeError:  # somebody was faster
        raise cannot_listen(where, flag, OSError(errno.EADDRINUSE, "")) from None


def time_limits(options: ServeOptions) -> TimeLimits:
    """Those of a request, at any door."""
    return TimeLimits(options.receive_seconds, options.write_seconds, options.request_seconds)


def _guard(
    options: ServeOptions,
    access: Access,
    tracing: Tracing | None = None,
    check_room: Mapping[str, CheckRoom] | None = None,
) -> CallGuard:
    room = ROOM_FOR_CALLS + options.max_requests * len(options.models)
    limits, writes = time_limits(options), Writes(options.write_seconds)
    watching = replace(limits, whole=None)
    requests, probes = Lane(Calls(room), limits, writes), Lane(Calls(ROOM_FOR_CALLS), watching, writes)
    return CallGuard(requests, probes, access, tracing, check_room)
