"""What a server is started with: one line a setting. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..engine.options import EngineOptions
from ..models.bounds import Bound
from ..models.errors import AddressError, SetupError
from ..models.setting import bounds, byte_count, setting
from .listening import check_exposure, check_tls_files

_PORT = Bound(0, 65535)
HTTP_PORT = 8000  # where nobody asks for another


def _seconds(default: float, help: str, most: float = 1e6) -> float:
    bound = Bound(0, most, whole=False, above=True, way_out=f"leave it out for {default:g}")
    found: float = setting(default, help, bound)
    return found


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Everything a server needs to know; the defaults are safe on a laptop.

    models: (name, path) pairs; the name is what requests say, the path a checkpoint or a short name.
    A field made by `setting` is also a flag of `moesaic serve`, a key of its file and a name of its environment.
    """

    models: tuple[tuple[str, str], ...]
    host: str = setting("127.0.0.1", "address to listen on; one that others can reach needs TLS and tokens")
    port: int = setting(50051, "0 takes any free one, which is printed", metavar="PORT")
    http: bool = setting(True, "answer over HTTP too: the page and OpenAI's API")
    http_port: int | None = setting(
        None,
        "of the page and OpenAI's API; 0 takes any free one",
        metavar="PORT",
        written=f"{HTTP_PORT}, or any free one where that is taken",
    )
    engine: EngineOptions = EngineOptions()
    tls_cert: str | None = setting(None, "certificate chain in PEM; read anew when it changes", metavar="FILE")
    tls_key: str | None = setting(None, "its private key in PEM, which others may not read", metavar="FILE")
    tls_client_ca: str | None = setting(
        None, "callers must show a certificate that one of these, in PEM, has signed", metavar="FILE"
    )
    tokens: str | None = setting(
        None, "who may call: names, hashes and rights, as `moesaic token new` writes them", metavar="FILE"
    )
    health_port: int | None = setting(
        None, "a second port of the same host, without TLS, that answers health and nothing else", metavar="PORT"
    )
    max_requests: int = setting(
        64,
        "running and waiting, a model; more are refused",
        Bound(1, 1_000_000, way_out="more than run at a time wait, and those beyond it are refused"),
    )
    max_prompt_tokens: int | None = setting(
        None,
        "of all prompts in flight, a model",
        Bound(1, 1 << 50, way_out="leave it out for 4 x context x slots"),
        written="4 x context x slots",
    )
    drain_seconds: float = setting(
        30.0,
        "for running requests after SIGTERM",
        Bound(0, 1e9, whole=False, way_out="0 ends running requests at once"),
    )
    max_request_bytes: int = setting(
        32 << 20,
        "of all requests in flight as they came; more are refused, never one alone, nor a caller below an equal share",
        Bound(1, 1 << 40, way_out="leave it out for 32 MiB"),
        read=byte_count,
        written="32M",
    )
    stall_seconds: float = _seconds(
        30.0,
        "work waits and no step has ended: the health is NOT_SERVING, and after four times as long the engine is "
        "started again",
        1e9,
    )
    load_seconds: float = _seconds(1800.0, "for an engine to load; one that takes longer is killed", 1e9)
    request_seconds: float = _seconds(300.0, "for one call from its first to its last byte")
    write_seconds: float = _seconds(30.0, "for a caller to read on")
    receive_seconds: float = _seconds(10.0, "for a caller to send its message")
    max_connections: int = setting(
        1024,
        "open at a time, fewer where few files may be open; more are closed",
        Bound(1, 1_000_000, way_out="those beyond it are closed at once"),
    )
    max_streams: int = setting(
        100,
        "calls at a time on one connection",
        Bound(1, 1_000_000, way_out="calls beyond it wait at their caller"),
    )
    memory_budget: int | None = setting(
        None,
        "of all models, in bytes; one that does not fit is not loaded",
        Bound(1, 1 << 50, way_out="give bytes, or leave it out for the memory of the machine"),
        read=byte_count,
        written="the machine's memory",
    )
    watch: str | None = setting(
        None,
        "whose model directories are served by their names: new ones are loaded, those that are gone unloaded",
        metavar="DIR",
    )
    admin_socket: str | None = setting(
        None, "where to administer the server; its mode is 0600", metavar="FILE", written="is printed"
    )
    repository_control: bool = setting(
        False, "callers of the Open Inference Protocol may load and unload models at hand"
    )
    reflection: bool = setting(True, "tell clients of the methods that there are")
    log_requests: bool = setting(False, "one JSON line a request on stderr, without text")
    otlp_traces_endpoint: str | None = setting(
        None,
        "where a span of each request goes, by OpenTelemetry's protocol over gRPC; takes the extra otel",
        metavar="URL",
        written="none, or OTEL_EXPORTER_OTLP_ENDPOINT",
    )


BOUNDS: Mapping[str, Bound] = bounds(ServeOptions)


def check(options: ServeOptions) -> None:
    """Raises SetupError for options that no server can be started with."""
    names = [name for name, _ in options.models]
    if not names and options.watch is None:
        raise SetupError("there is no model to serve; give the path of at least one, or a folder to --watch")
    if options.watch is not None and not Path(options.watch).is_dir():
        raise SetupError(f"watch: there is no folder {options.watch}; make it, or leave out --watch")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SetupError(f"two models are called {twice!r}; give each a name of its own")
    check_numbers(options)
    check_tls_files(options.tls_cert, options.tls_key, options.tls_client_ca)
    check_exposure(options.host, options.tls_cert is not None, options.tokens is not None)


def check_numbers(options: ServeOptions) -> None:
    """Raises SetupError for a number of the server or of its engines that can have no effect as it stands."""
    for name, bound in BOUNDS.items():
        bound.check(name, getattr(options, name))
    options.engine.check()
    for name in ("port", "http_port", "health_port"):
        port = getattr(options, name)
        if port is not None and not _PORT.holds(port):
            raise AddressError(f"{name} {port} does not exist; give one up to 65535, or 0 for any free one")
