"""A real server process on a port of its own; its engine processes echo, or with real=True run the model.

python tests/server_harness.py OPTIONS_JSON
"""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from echo_engine import STEP_SECONDS

from moesaic.engine.options import EngineOptions
from moesaic.server.client import Client
from moesaic.server.engine_process import WORKER
from moesaic.server.options import ServeOptions
from moesaic.server.serve import serve

PATIENCE_SECONDS = 20.0


class Server:
    """Started when made; `with` ends it. The log is what it wrote to stderr."""

    def __init__(
        self, *, names: tuple[str, ...] = ("echo",), engine: EngineOptions | None = None, **options: Any
    ) -> None:
        step_seconds = options.pop("step_seconds", 0.001)
        path = str(options.pop("path", "stories260k"))
        models = [(name, path) for name in names]
        values = {"models": models, "port": 0, "engine": dataclasses.asdict(engine or EngineOptions()), **options}
        self._log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(values)],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, STEP_SECONDS: str(step_seconds)},
        )
        self.printed = ""
        self.address = ""

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Reads what is printed up to a line that holds the pattern."""
        for line in self.process.stdout or ():
            self.printed += line
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"{pattern!r} was never printed; log:\n{self.log}")

    def client(self) -> Client:
        return Client(self.address)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)

    def __enter__(self) -> Self:
        self.address = self.wait_for(r"^serving \S+ on (\S+)$")[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self._log.close()


def eventually(holds: Callable[[], bool]) -> None:
    """Waits until it holds; fails when it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def alive(process_id: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    given["models"] = tuple((name, path) for name, path in given["models"])
    given["engine"] = EngineOptions(**given["engine"])
    echo = (sys.executable, str(Path(__file__).with_name("echo_engine.py")))
    worker = WORKER if given.pop("real", False) else echo
    sys.exit(serve(ServeOptions(**given), worker))
