"""Whether this server has an HTTP door, and where: the packages for it may be missing, which serves gRPC as ever."""

import errno
import socket
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..models.errors import SetupError
from .catalog import Catalog
from .exchange import TimeLimits
from .generation import Generation
from .health import HealthService
from .listening import cannot_listen, place
from .options import HTTP_PORT, ServeOptions
from .security import Security

if TYPE_CHECKING:
    from .http.door import HttpDoor
    from .metrics import Metrics

PACKAGES = ("starlette", "uvicorn", "prometheus_client")


def missing() -> str:
    """What is said where packages are missing; empty where they are there."""
    names = " ".join(name for name in PACKAGES if find_spec(name) is None)
    return f"no HTTP: pip install {names}" if names else ""


def open_metrics(options: ServeOptions, catalog: Catalog) -> "Metrics | None":
    """The figures that both doors feed, where there is a door to read them at."""
    if not options.http or missing():
        return None
    from .metrics import Metrics

    return Metrics(catalog)


def open_door(options: ServeOptions, host: str, most_connections: int) -> "HttpDoor | None":
    """Listens, or is None where HTTP is not wanted. Raises AddressError for a port that cannot be had.

    A port that nobody asked for is given up for any free one, and where packages are missing for none. Raises
    SetupError for one that was asked for there.
    """
    if options.http and options.http_port is not None and (why := missing()):
        raise SetupError(f"http_port is {options.http_port}, and there is {why}")
    if not options.http or missing():
        return None
    from .http.door import HttpDoor

    return HttpDoor(_listen(host, options.http_port), most_connections)


def start_door(
    door: "HttpDoor",
    generation: Generation,
    health: HealthService,
    metrics: "Metrics",
    limits: TimeLimits,
    security: Security,
) -> None:
    """Has it answer."""
    from .http.app import HttpApp

    app = HttpApp(generation, health, metrics, limits).guarded(security.access)
    context = security.certificates.context() if security.certificates else None
    door.start(app, limits, generation.catalog.gone, context)


def _listen(host: str, asked: int | None) -> socket.socket:
    from .http.door import listen

    port = HTTP_PORT if asked is None else asked
    try:
        return listen(host, port)
    except OSError as error:
        if asked is None and error.errno == errno.EADDRINUSE:
            return listen(host, 0)
        raise cannot_listen(place(host, port), "--http-port", error) from None
