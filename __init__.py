"""moesaic: smaller Transformers, in tiles. Compress, serve over gRPC, and see what was kept and gained.

`load`, `LLM`, `Client` and `compress` are fetched on first use, so that importing the package costs nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compress.pipeline import compress as compress
    from .engine.llm import LLM as LLM
    from .models.checkpoint import load as load
    from .server.client import Client as Client

__version__ = "0.1.0"
_HOMES = {
    "load": ".models.checkpoint",
    "LLM": ".engine.llm",
    "Client": ".server.client",
    "compress": ".compress.pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'moesaic' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name], __name__), name)
