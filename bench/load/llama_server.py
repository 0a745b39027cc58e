"""llama.cpp's own server, of the wheel xllamacpp: python -m moesaic.bench.load.llama_server FILE.gguf THREADS SLOTS

Continuous batching as it ships, 2,048 tokens a slot. The wheel is built for fewer instructions than a machine may have:
a llama.cpp that is compiled on the machine may be faster, and `about` is to stand beside its figures.
"""

import signal
import sys
from importlib import import_module
from importlib.util import find_spec

from ...models.errors import SetupError
from ...models.extras import is_missing
from ..server.processes import Started

SLOTS, SLOT_TOKENS = 8, 2048


def why_absent(target: str) -> str:
    """Why it cannot serve the target here; nothing where it can."""
    return "" if find_spec("xllamacpp") else is_missing(f"target {target}: llama.cpp's server", "peers", "xllamacpp")


class LlamaServer(Started):
    """A process of it. Raises SetupError where the wheel is missing, or the file is not one that it loads."""

    def __init__(self, file: str, threads: int) -> None:
        if why := why_absent(file):
            raise SetupError(why)
        super().__init__("moesaic.bench.load.llama_server", file, str(threads), str(SLOTS))

    @property
    def about(self) -> str:
        """Version, and what it was built for."""
        library = import_module("xllamacpp")
        built = [word.split()[0] for word in library.get_system_info().split(":")[-1].split("|") if "= 1" in word]
        return f"llama.cpp of xllamacpp {library.__version__}, built for {', '.join(built)}; {SLOTS} slots"


def main() -> int:
    """Serves until it is ended."""
    file, threads, slots = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    library = import_module("xllamacpp")
    asked = library.CommonParams()
    asked.model.path, asked.port, asked.ui = file, 0, False
    asked.n_parallel, asked.n_ctx, asked.cpuparams.n_threads = slots, slots * SLOT_TOKENS, threads
    asked.cpuparams_batch.n_threads = threads
    server = library.Server(asked)
    sys.stdout.write(f"serving {file} on {server.listening_address.removeprefix('http://')}\n")
    sys.stdout.flush()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


if __name__ == "__main__":
    sys.exit(main())
