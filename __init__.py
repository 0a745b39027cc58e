"""moesaic: smaller Transformers, in tiles. Compress, serve over gRPC, and see what was kept and gained.

`load`, `LLM`, `Client`, `AsyncClient` and `compress` are fetched on first use: importing the package costs nothing.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .models.version import VERSION

if TYPE_CHECKING:
    from .compress.pipeline import compress as compress
    from .engine.llm import LLM as LLM
    from .models.checkpoint import load as load
    from .server.async_client import AsyncClient as AsyncClient
    from .server.client import Client as Client

__version__ = VERSION
_HOMES = {
    "load": ".models.checkpoint",
    "LLM": ".engine.llm",
    "Client": ".server.client",
    "AsyncClient": ".server.async_client",
}


def __getattr__(name: str) -> Any:
    if name == "compress":
        return import_module(".compress", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module 'moesaic' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "compress"})


class _CompressFolder(ModuleType):
    """The folder compress/, which is also called: `moesaic.compress(model, out, recipe)` runs a recipe."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        return import_module(".pipeline", self.__name__).compress(*args, **settings)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        if name == "compress":  # set by the import system whenever a module of the folder is first imported
            value.__class__ = _CompressFolder
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
