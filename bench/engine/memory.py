"""What an engine holds that serves nobody, beside an empty process that has imported torch."""

import subprocess
import sys

_MEASURE = "import resource, sys; print(int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize())"
_EMPTY = f"import torch; torch.ones(1); {_MEASURE}"
_ENGINE = f"""
import sys
from moesaic.engine.build import build_engine
from moesaic.engine.options import EngineOptions
from moesaic.models.host_memory import give_back_freed_memory
built = build_engine(sys.argv[1], EngineOptions())
give_back_freed_memory()
{_MEASURE}
print(built.description.weight_bytes, built.description.kv_bytes)
"""


def idle_memory(model: str) -> dict[str, float]:
    """Bytes resident of the two processes, and the difference beside what the issue of it allows."""
    empty = int(_output(_EMPTY))
    loaded, *about = _output(_ENGINE, model).split()
    weights, kv = map(int, about)
    extra = int(loaded) - empty
    return {
        "empty_bytes": empty, "engine_bytes": int(loaded), "weight_bytes": weights, "kv_bytes_promised": kv,
        "engine_over_empty_bytes": extra, "limit_bytes": int(1.1 * weights) + (64 << 20),
    }  # fmt: skip


def _output(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout
