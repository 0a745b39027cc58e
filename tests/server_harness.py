"""A real server process on a port of its own, whose engine processes echo.

python tests/server_harness.py OPTIONS_JSON
"""

import dataclasses
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Timer
from types import TracebackType
from typing import Any, Self, Unpack

from echo_engine import HELD
from patience import PATIENCE_SECONDS

from moesaic.engine.options import EngineOptions
from moesaic.server import engine_process, parts, reloaded, serve, transport, watched
from moesaic.server.admin_client import AdminClient
from moesaic.server.client import Client
from moesaic.server.dialling import ClientSettings
from moesaic.server.options import ServeOptions
from moesaic.server.watchdog import Patience

PATIENT = {
    f"{name}_seconds": PATIENCE_SECONDS for name in ("drain", "stall", "request", "write", "receive", "last_words")
}
SERVES, LISTENS = r"^serving \S+ on (\S+)$", r"listens on (\S+)"


class Server:
    """Started when made; `with` waits until it printed `said`, and ends it. The log is what it wrote to stderr."""

    def __init__(
        self,
        *,
        names: tuple[str, ...] = ("echo",),
        engine: EngineOptions | None = None,
        said: str = SERVES,
        **options: Any,
    ) -> None:
        path = str(options.pop("path", "stories260k"))
        stderr = options.pop("stderr", None)  # a descriptor, instead of the log
        models = [(name, path) for name in names]
        self._folder = tempfile.TemporaryDirectory()
        settings = {
            "port": 0,
            "http": False,
            "admin_socket": str(Path(self._folder.name) / "admin.sock"),
            "engine": dataclasses.asdict(engine or EngineOptions()),
            **PATIENT,
            **options,
        }
        self.admin_socket = str(settings["admin_socket"])
        self._log = tempfile.TemporaryFile("w+")
        self._gate = Path(self._folder.name) / "held"
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps({"models": models, **settings})],
            stdout=subprocess.PIPE,
            stderr=self._log if stderr is None else stderr,
            text=True,
            env={**os.environ, HELD: str(self._gate)},
        )
        self.printed = ""
        self.address = ""
        self._said = said

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    @property
    def web(self) -> str:
        """The address of the HTTP door, of a server that has one."""
        found = re.search(r"^HTTP at (\S+)$", self.printed, re.MULTILINE)
        assert found, self.printed
        return found[1]

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Reads what is printed up to a line that holds the pattern."""
        hung = Timer(PATIENCE_SECONDS, self.process.kill)
        hung.start()
        try:
            for line in self.process.stdout or ():
                self.printed += line
                if found := re.search(pattern, line):
                    return found
        finally:
            hung.cancel()
        raise AssertionError(f"{pattern!r} was never printed; log:\n{self.log}")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Meanwhile no engine starts, and a request that begins with HOLD or STALL stays at its third token."""
        self._gate.touch()
        try:
            yield
        finally:
            self._gate.unlink()

    def client(self, **settings: Unpack[ClientSettings]) -> Client:
        return Client(self.address, **({"retries": 0} | settings))

    def admin(self) -> AdminClient:
        return AdminClient(self.admin_socket)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)

    def __enter__(self) -> Self:
        if self._said:
            self.address = self.wait_for(self._said)[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self._log.close()
        self._folder.cleanup()


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def all_free(client: Client) -> bool:
    """Whether the only model's engine holds no request."""
    load = client.model().load
    return load is not None and load.free_slots == load.num_slots and not load.waiting


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    given["models"] = tuple((name, path) for name, path in given["models"])
    given["engine"] = EngineOptions(**given["engine"])
    patience = {name: given.pop(name, PATIENCE_SECONDS) for name in ("silent", "hang")}
    parts.Patience = partial(Patience, **patience)  # type: ignore[assignment, attr-defined]
    transport.MAX_AGE_MS = given.pop("max_age_ms", transport.MAX_AGE_MS)
    reloaded.LOOK_SECONDS = watched.LOOK_SECONDS = 0.05
    if files := given.pop("files", 0):  # that the process may have open
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    engine_process.END_SECONDS, serve.LAST_WORDS_SECONDS = PATIENCE_SECONDS, given.pop("last_words_seconds")
    echo = (sys.executable, str(Path(__file__).with_name("echo_engine.py")))
    sys.exit(serve.serve(ServeOptions(**given), echo))
