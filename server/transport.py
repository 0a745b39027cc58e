"""What the core of gRPC is told: sizes, pings, and the bounds on connections that only it can keep."""

import resource

from ..models.errors import SetupError
from .options import ServeOptions

MAX_MESSAGE_BYTES = 4 << 20
MIN_PING_MS = 5_000  # clients may ping every 10 s; without this the third ping within 5 minutes ends a silent call
MAX_AGE_MS = 600_000  # then a connection takes no new calls, and its client opens another
MAX_IDLE_MS = 600_000  # without a call
HANDSHAKE_MS = 3_000  # for a connection to introduce itself; until then it has the room of one
RESERVED_FILES = 32  # beside connections: listener, log, pipes; an engine's sockets; those on their way to be closed
FILES_OF_MODEL = 8
PROBE_CONNECTIONS = 64  # on the port for probes
_LEAST_CONNECTIONS = 8

CHANNEL_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second server on the port is an error, not half of the requests
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_MS),
    ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
    ("grpc.max_connection_idle_ms", MAX_IDLE_MS),
)


def channel_options(options: ServeOptions, num_connections: int) -> tuple[tuple[str, int], ...]:
    """CHANNEL_OPTIONS, and the bounds that a server is started with.

    A connection that is old has the time that a call may take. Then it is closed, which alone ends a call whose caller
    neither reads nor hangs up: a status can only follow the bytes before it.
    """
    grace = options.request_seconds + options.write_seconds
    return (
        *CHANNEL_OPTIONS,
        ("grpc.max_connection_age_ms", MAX_AGE_MS),
        ("grpc.max_connection_age_grace_ms", round(grace * 1000)),
        ("grpc.max_concurrent_streams", options.max_streams),
        ("grpc.http2.max_deallocating_streams", options.max_streams),  # or an end that is not told yet counts as a call
        ("grpc.max_allowed_incoming_connections", num_connections),
    )


def num_connections(options: ServeOptions) -> int:
    """As many at each door as were asked for, or as this process may have files open beside those it needs itself.

    Raises the process's own limit towards what the system allows it. Raises SetupError where too few remain.
    """
    reserved = RESERVED_FILES + FILES_OF_MODEL * len(options.models)
    reserved += 0 if options.health_port is None else PROBE_CONNECTIONS
    doors = 1 + options.http
    limit = _file_limit(doors * options.max_connections + reserved)
    room = min(options.max_connections, (limit - reserved) // doors)
    if room < min(options.max_connections, _LEAST_CONNECTIONS):
        needed = reserved + doors * _LEAST_CONNECTIONS
        raise SetupError(f"this process may open {limit} files, a server needs {needed}; raise it with ulimit -n")
    return room


def _file_limit(wanted: int) -> int:
    """How many files this process may open: at least `wanted` where the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):  # the kernel has a limit of its own
        return soft
    return allowed
