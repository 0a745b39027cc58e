"""The processes that a run starts and looks at: a server with a timed engine, the bare echo, and what they take."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ...models.errors import AddressError, SetupError
from ...server.admin_client import AdminClient
from ...server.client import Client
from ..local_server import address_of
from .timed_engine import Pace

_TICKS = os.sysconf("SC_CLK_TCK")
_LAST_LINES = 3


def resident_bytes(process_id: int) -> int:
    """The memory that a process has now; 0 for one that is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(process_id: int) -> float:
    """The processor time that a process has had, without its children's; 0 for one that is gone."""
    with suppress(OSError):
        fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    return 0.0


class Started:
    """A program on this machine that says `serving NAME on ADDRESS`. `with` waits for that and ends it at the end."""

    def __init__(self, *command: str, wait: bool = True) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed at the end of the block
        self._wait = wait
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", *command], stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self.address = ""

    def wait(self) -> None:
        """Until it serves. Raises SetupError."""
        try:
            self.address = address_of(self.process, 1)
        except AddressError:
            self.check()
            raise

    def check(self) -> None:
        """Raises SetupError with its last words where it has ended, so that nothing is measured of a dead server."""
        code = self.process.poll()
        if code is not None:
            words = self.last_words() or "none"
            raise SetupError(f"the server ended with code {code} while it was measured; its last words: {words}")

    def last_words(self) -> str:
        """The end of its log, in one line."""
        self._log.seek(0)
        return " ".join(" ".join(self._log.read().splitlines()[-_LAST_LINES:]).split())

    def __enter__(self) -> Self:
        if self._wait:
            self.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self._log.close()


class BareEcho(Started):
    """The bare echo. step: of its grid; 0 is as fast as it can."""

    def __init__(self, step: float = 0.0) -> None:
        super().__init__("moesaic.bench.server.echo", str(step))


class TimedServer(Started):
    """A server with a timed engine. options: of `ServeOptions`, beside what a run needs."""

    def __init__(self, pace: Pace, num_slots: int, wait: bool = True, **options: Any) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.admin_socket = str(Path(self._folder.name) / "admin.sock")
        port = free_port()
        settings = {
            "port": 0, "http_port": port, "max_requests": 4 * num_slots,
            "admin_socket": self.admin_socket, "pace": asdict(pace), "num_slots": num_slots, **options,
        }  # fmt: skip
        self.web = f"127.0.0.1:{port}" if settings.get("http", True) else ""
        super().__init__("moesaic.bench.server.timed_server", json.dumps(settings), wait=wait)

    def admin(self) -> AdminClient:
        """A client of its admin socket."""
        return AdminClient(self.admin_socket)

    @property
    def engine(self) -> int:
        """The process of its engine."""
        with Client(self.address, retries=0) as client:
            return int(client.model().device)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._folder.cleanup()


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
