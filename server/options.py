"""What a server is started with. Imports no torch."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from ..engine.options import EngineOptions
from ..models.bounds import Bound
from ..models.errors import AddressError, SetupError

BOUNDS: Mapping[str, Bound] = {
    "max_requests": Bound(1, 1_000_000, way_out="more than run at a time wait, and those beyond it are refused"),
    "max_prompt_tokens": Bound(1, 1 << 50, way_out="leave it out for 4 x context x slots"),
    "drain_seconds": Bound(0, 1e9, whole=False, way_out="0 ends running requests at once"),
    "stall_seconds": Bound(0, 1e9, whole=False, above=True, way_out="leave it out for 30"),
    "load_seconds": Bound(0, 1e9, whole=False, above=True, way_out="leave it out for 1800"),
    "max_request_bytes": Bound(1, 1 << 40, way_out="leave it out for 32 MiB"),
    "request_seconds": Bound(0, 1e6, whole=False, above=True, way_out="leave it out for 300"),
    "write_seconds": Bound(0, 1e6, whole=False, above=True, way_out="leave it out for 30"),
    "receive_seconds": Bound(0, 1e6, whole=False, above=True, way_out="leave it out for 10"),
    "max_connections": Bound(1, 1_000_000, way_out="those beyond it are closed at once"),
    "max_streams": Bound(1, 1_000_000, way_out="calls beyond it wait at their caller"),
}
_PORT = Bound(0, 65535)
HTTP_PORT = 8000  # where nobody asks for another


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Everything a server needs to know; the defaults are safe on a laptop.

    models: (name, path) pairs; the name is what requests say, the path a checkpoint or a short name.
    port: 0 takes any free port, which is printed. http: whether there is an HTTP door; http_port: the same for it, and
    None is 8000, or any free one where that is taken.
    max_requests: requests in flight per model, running and waiting; the next one is refused.
    max_prompt_tokens: tokens of all prompts in flight per model; None is 4 x context x slots.
    drain_seconds: how long running requests may go on after SIGTERM.
    max_request_bytes: of all requests in flight, of all models, as they came; one that is alone always has room.
    stall_seconds: work waits and no step ended for so long: the health is NOT_SERVING; the engine is killed and started
    again after four times as long, and soon where it computes nothing.
    load_seconds: an engine that takes longer to load is killed.
    request_seconds: of one call from its first byte to its last; then it is ended.
    write_seconds: how long an answer may wait for its caller to read on.
    receive_seconds: for a call to send its message.
    max_connections: open at a time, fewer where the limit on open files is lower; the next one is closed.
    max_streams: calls at a time on one connection.
    log_requests: one JSON line per request to stderr; it never holds text.
    """

    models: tuple[tuple[str, str], ...]
    host: str = "127.0.0.1"
    port: int = 50051
    http: bool = True
    http_port: int | None = None
    engine: EngineOptions = EngineOptions()
    max_requests: int = 64
    max_prompt_tokens: int | None = None
    drain_seconds: float = 30.0
    max_request_bytes: int = 32 << 20
    stall_seconds: float = 30.0
    load_seconds: float = 1800.0
    request_seconds: float = 300.0
    write_seconds: float = 30.0
    receive_seconds: float = 10.0
    max_connections: int = 1024
    max_streams: int = 100
    reflection: bool = True
    log_requests: bool = False


def check(options: ServeOptions) -> None:
    """Raises SetupError for options that no server can be started with."""
    names = [name for name, _ in options.models]
    if not names:
        raise SetupError("there is no model to serve; give the path of at least one")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SetupError(f"two models are called {twice!r}; give each a name of its own")
    check_numbers(options)


def check_numbers(options: ServeOptions) -> None:
    """Raises SetupError for a number of the server or of its engines that can have no effect as it stands."""
    for name, bound in BOUNDS.items():
        bound.check(name, getattr(options, name))
    options.engine.check()
    for name, port in (("port", options.port), ("http_port", options.http_port)):
        if port is not None and not _PORT.holds(port):
            raise AddressError(f"{name} {port} does not exist; give one up to 65535, or 0 for any free one")


def loopback(host: str) -> str:
    """The loopback address that `host` means. Raises AddressError for every other host."""
    if host == "localhost":
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        raise AddressError(f"host {host!r} is not an IP address; give 127.0.0.1 or ::1") from None
    if not address.is_loopback:
        raise AddressError(
            f"host {host} can be reached from other machines, and this server has neither TLS nor tokens yet; "
            "listen on 127.0.0.1 and forward the port, for example with ssh -L"
        )
    return str(address)
