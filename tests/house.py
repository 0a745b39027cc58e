"""The folders of the house and who may import whom, for tests that hold code and documents to it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("cli", "bench", "server", "compress", "evaluate", "engine", "models", "kernels", "proto")
ARROWS = {
    "cli": {"server", "compress", "evaluate", "engine", "bench", "models", "kernels"},
    "bench": {"proto", "server", "compress", "evaluate", "engine", "models", "kernels"},
    "server": {"proto", "engine", "models"},
    "compress": {"evaluate", "models", "kernels"},
    "evaluate": {"engine", "models"},
    "engine": {"models", "kernels"},
    "models": {"kernels"},
    "kernels": set[str](),
    "proto": set[str](),
}
