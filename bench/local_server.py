"""A server of our own on a free port of this machine, in its own process."""

import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..models.errors import AddressError

_START_SECONDS = 180.0


@contextmanager
def local_server(models: Mapping[str, str | Path], *options: str) -> Iterator[str]:
    """Serves models by name and gives the address once all of them answer; ends the server with the block.

    Over gRPC alone, unless an option names a port for HTTP.
    """
    named = [f"{name}={path}" for name, path in models.items()]
    grpc_alone = () if "--http-port" in options else ("--no-http",)
    command = [sys.executable, "-m", "moesaic.cli.main", "serve", *named, "--port", "0", *grpc_alone, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield address_of(process, len(named))
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def address_of(process: "subprocess.Popen[str]", num_models: int) -> str:
    """Waits for a line `serving NAME on HOST:PORT` for every model; keeps reading, so that the server never blocks."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in process.stdout or ():
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    seen, found, end = [], 0, time.monotonic() + _START_SECONDS
    while time.monotonic() < end:
        try:
            line = lines.get(timeout=1.0)
        except queue.Empty:
            continue
        if not line:
            break
        seen.append(line)
        serving = re.fullmatch(r"serving .* on (\S+)\s*", line)
        found += serving is not None
        if serving and found == num_models:
            return serving[1]
    raise AddressError("the server did not start: " + " ".join("".join(seen[-3:]).split()))
