"""The Unix socket on which a server is administered: only its owner can open it."""

import os
import socket
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from ..models.errors import AddressError
from .access import Access
from .admin import AdminService
from .calls import Calls
from .exchange import TimeLimits
from .handlers import ADMIN, add_service
from .interceptor import CallGuard, Lane
from .options import ServeOptions
from .reflection import reflection_handlers
from .transport import CHANNEL_OPTIONS
from .writes import Writes

MOST_PATH_BYTES = 107  # what an address of a Unix socket holds
ROOM_FOR_CALLS = 64


@dataclass(frozen=True, slots=True)
class AdminDoor:
    """The server of the socket, and where that is; None where its own folder is not to be had."""

    server: grpc.aio.Server
    path: Path | None

    def end(self) -> None:
        """Takes the socket of a server that has ended away."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def open_admin_door(options: ServeOptions, port: int, service: AdminService) -> AdminDoor:
    """A server that is not started yet. Raises AddressError for a path that was asked for and can be no socket."""
    limits = TimeLimits(options.receive_seconds, options.write_seconds, None)
    lane = Lane(Calls(ROOM_FOR_CALLS), limits, Writes(limits.write))
    server = grpc.aio.server(interceptors=(CallGuard(lane, lane, Access()),), options=CHANNEL_OPTIONS)
    add_service(server, ADMIN, service)
    server.add_generic_rpc_handlers(reflection_handlers((ADMIN.full_name,)))
    try:
        path = Path(options.admin_socket).absolute() if options.admin_socket else default_path(port)
        bind(server, path)
    except AddressError:
        if options.admin_socket:
            raise
        return AdminDoor(server, None)
    return AdminDoor(server, path)


def default_path(port: int) -> Path:
    """In a folder that is this user's own. Raises AddressError where that belongs to somebody else."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    own = Path(tempfile.gettempdir()) / f"moesaic-{os.getuid()}"
    folder = Path(runtime) / "moesaic" if runtime and os.access(runtime, os.W_OK) else own
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise AddressError(f"{folder} cannot hold the admin socket: {error.strerror}; {_WAY_OUT}") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise AddressError(f"{folder} is not a folder that only this user can open; {_WAY_OUT}")
    return folder / f"admin-{port}.sock"


def bind(server: grpc.aio.Server, path: Path) -> None:
    """Has a server listen there, with mode 0600. Raises AddressError with the way out."""
    size = len(os.fsencode(path))
    if size > MOST_PATH_BYTES:
        raise AddressError(f"{path} has {size} bytes, a socket may have {MOST_PATH_BYTES}; {_WAY_OUT}")
    _check_free(path)
    before = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
        path.chmod(0o600)
    except (OSError, RuntimeError):
        raise AddressError(f"{path} cannot be made a socket; {_WAY_OUT}") from None
    finally:
        os.umask(before)


def _check_free(path: Path) -> None:
    """A socket that nobody listens on any more may be replaced, and nothing else."""
    if not path.exists():
        return
    if not path.is_socket():
        raise AddressError(f"{path} is there and is no socket; {_WAY_OUT}")
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.connect(str(path))
        raise AddressError(f"{path} is the admin socket of a server that runs; {_WAY_OUT}")


_WAY_OUT = "choose another path with --admin-socket"
