"""Serves a model and has foreign clients use it: python tests/interop/run.py PYTHON, which is where they are."""

import subprocess
import sys
from pathlib import Path

from moesaic.bench.local_server import local_server

CLIENTS = ("triton.py",)
_SECONDS = 120  # for one client


def main(python: str) -> None:
    with local_server({"stories": "stories260k"}) as address:
        for name in CLIENTS:
            script = Path(__file__).with_name(name)
            subprocess.run([python, script, address, "stories"], check=True, timeout=_SECONDS)
            sys.stdout.write(f"{name}: it works\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
