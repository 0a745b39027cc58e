"""Serves a model and has foreign clients use it: python tests/interop/run.py TRITON LOAD NODE_FOLDER

The first two are the Pythons of Triton's client and of GuideLLM. NODE_FOLDER has no node_modules where there is no
Node.js, which is said; the others are run as ever.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from google.rpc import status_pb2

from moesaic.bench.local_server import local_server
from moesaic.bench.server.processes import free_port
from moesaic.models.locate import locate

HERE = Path(__file__).parent
PROTOS = HERE.parents[1] / "proto", Path(status_pb2.__file__).parents[2]  # our files of the wire, and what they import
MODEL = "stories260k"
_SECONDS = 120  # for one client


def main(triton: str, load: str, node_folder: str) -> None:
    modules, port = Path(node_folder).absolute() / "node_modules", free_port()
    with local_server({"stories": MODEL}, "--http-port", str(port)) as address:
        for name, command in clients(triton, load, modules, f"http://127.0.0.1:{port}"):
            given = [*command, address, "stories", *map(str, PROTOS)]
            subprocess.run(given, check=True, timeout=_SECONDS, env={**os.environ, "NODE_PATH": str(modules)})
            sys.stdout.write(f"{name}: it works\n")


def clients(triton: str, load: str, modules: Path, web: str) -> Iterator[tuple[str, list[str]]]:
    """Those that can be run here, and what runs them."""
    yield "tritonclient", [triton, str(HERE / "triton.py")]
    yield "guidellm", [load, str(HERE / "load.py"), web, str(locate(MODEL))]
    if shutil.which("node") and modules.is_dir():
        yield "@grpc/grpc-js", ["node", str(HERE / "node" / "client.js")]
    else:
        sys.stdout.write("@grpc/grpc-js: skipped, there is no Node.js here\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
