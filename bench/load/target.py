"""Which server is measured: an address that a person writes, or a model that is served here for as long as it takes."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from urllib.parse import parse_qs, urlsplit

from ...models.bounds import PROCESSORS
from ...models.errors import AddressError, MoesaicError, SetupError
from ...models.locate import locate
from ...server.client import Client
from ..local_server import local_server
from .door import Door
from .grpc_door import GrpcDoor
from .llama_server import LlamaServer
from .openai_door import OpenAIDoor, models_at
from .pages import Held, held_in_metrics, held_of_model

_FORMS = (
    "grpc://HOST:PORT[/MODEL], http://HOST:PORT[/v1][?model=NAME] or what is served here, a model or a FILE.gguf by "
    "llama.cpp; after NAME= if you like"
)

_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server under a name. place: what was written."""

    name: str
    place: str

    @classmethod
    def read(cls, word: str) -> "Target":
        """Of `NAME=PLACE` or `PLACE`. Raises SetupError for a kind of address that is not spoken."""
        name, found, place = word.partition("=")
        if not found or "/" in name or ":" in name:
            name, place = word, word
        scheme = urlsplit(place).scheme
        if "://" in place and scheme not in ("grpc", "http"):
            raise SetupError(f"target {word!r}: {scheme}:// cannot be measured; give {_FORMS}")
        return cls(name, place)


@dataclass(frozen=True, slots=True)
class Opened:
    """A target that can be reached. about: what it says of itself. held: asks it for the share of its pages in use."""

    make: Callable[[], Door]
    about: str
    held: Held


@contextmanager
def opened(target: Target, token: str = "", threads: int | None = None) -> Iterator[Opened]:
    """Reaches a target; what is no address is served until the block ends. Raises AddressError."""
    with ExitStack() as stack:
        place, about = target.place, ""
        if place.endswith(".gguf"):
            server = stack.enter_context(LlamaServer(place, threads or PROCESSORS))
            place, about = f"http://{server.address}/v1", server.about
        elif "://" not in place:
            options = [] if threads is None else ["--threads", str(threads)]
            place = "grpc://" + stack.enter_context(local_server({"model": locate(place)}, *options))
        make, held = _reached(target, place, token, stack)
        yield Opened(make, about, held)


def _reached(target: Target, place: str, token: str, stack: ExitStack) -> tuple[Callable[[], Door], Held]:
    parts = urlsplit(place)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise AddressError(f"target {target.name}: {place!r} has no host and port; give {_FORMS}")
    _check_reached(host, port)
    if parts.scheme == "grpc":
        address, model = f"{host}:{port}", parts.path.strip("/")
        return lambda: GrpcDoor(address, model, token), _held_of(host, port, model, token, stack)
    root = parts.path.rstrip("/") or "/v1"
    model = "".join(parse_qs(parts.query).get("model", [])) or _only_model(host, port, root, token)
    return lambda: OpenAIDoor(host, port, root, model, token), partial(held_in_metrics, host, port, model, token)


def _held_of(host: str, port: int, model: str, token: str, stack: ExitStack) -> Held:
    """Of a server that a client refuses, as one that would send a token in the clear, nothing is known."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        client = stack.enter_context(Client(address, token=token or None, retries=0))
    except MoesaicError:
        return lambda: None
    return partial(held_of_model, client, model)


def _check_reached(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), _PATIENCE_SECONDS).close()
    except OSError as error:
        raise AddressError(f"nobody answers at {host}:{port}: {error.strerror or error}") from None


def _only_model(host: str, port: int, root: str, token: str) -> str:
    names = models_at(host, port, root, token)
    if len(names) != 1:
        raise AddressError(f"{host}:{port} serves {', '.join(names) or 'no model'}; name one: ?model=NAME")
    return names[0]
