"""Serves a model and has foreign clients use it: python tests/interop/run.py PYTHON NODE_FOLDER, where these are.

NODE_FOLDER has no node_modules where there is no Node.js, which is said; the others are run as ever.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from google.rpc import status_pb2

from moesaic.bench.local_server import local_server

HERE = Path(__file__).parent
PROTOS = HERE.parents[1] / "proto", Path(status_pb2.__file__).parents[2]  # our files of the wire, and what they import
_SECONDS = 120  # for one client


def main(python: str, node_folder: str) -> None:
    modules = Path(node_folder).absolute() / "node_modules"
    with local_server({"stories": "stories260k"}) as address:
        for name, command in clients(python, modules):
            given = [*command, address, "stories", *map(str, PROTOS)]
            subprocess.run(given, check=True, timeout=_SECONDS, env={**os.environ, "NODE_PATH": str(modules)})
            sys.stdout.write(f"{name}: it works\n")


def clients(python: str, modules: Path) -> Iterator[tuple[str, list[str]]]:
    """Those that can be run here, and what runs them."""
    yield "tritonclient", [python, str(HERE / "triton.py")]
    if shutil.which("node") and modules.is_dir():
        yield "@grpc/grpc-js", ["node", str(HERE / "node" / "client.js")]
    else:
        sys.stdout.write("@grpc/grpc-js: skipped, there is no Node.js here\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
