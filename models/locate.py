"""From what a person types to a model directory: a path, the short name of a model at hand, or a hub name."""

import os
import re
from pathlib import Path

from ..kernels.cache import cache_folder
from .errors import CheckpointError
from .intake.registry import SOURCES

EMBEDDED = Path(__file__).parent / "embedded"
DEFAULT_MODEL = "stories260k"


def short_names() -> list[str]:
    """The models that can be used by a short name right now."""
    folders = [EMBEDDED, cache_folder() / "models"]
    return sorted({file.parent.name for folder in folders for file in folder.glob("[!.]*/config.json")})


def locate(name_or_path: str | Path) -> Path:
    """The directory meant. Raises CheckpointError with what is at hand, or with the command that would fetch it."""
    text = str(name_or_path)
    try:
        path = Path(text).expanduser()
        if path.is_dir():
            return path.resolve()
        if path.exists():
            raise CheckpointError(f"{text} is a file; give the model directory that holds config.json")
    except (OSError, RuntimeError) as error:  # too long, not permitted; the home of nobody
        raise CheckpointError(f"{text[:100]} cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    if found := by_short_name(text):
        return found
    if source := SOURCES.get(text.lower()):
        raise CheckpointError(
            f"{source.name} is not at hand yet; fetch it ({source.fetch_bytes / 1e6:.0f} MB) with: "
            f"moesaic models get {source.name}"
        )
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text):
        return _in_hub_cache(text)
    raise CheckpointError(
        f"there is no model directory {text!r}; models at hand: {', '.join(short_names())}; "
        "more can be fetched: moesaic models list"
    )


def by_short_name(name: str) -> Path | None:
    """The directory of a model that ships or is in the cache, or None."""
    for folder in (EMBEDDED, cache_folder() / "models"):
        if re.fullmatch(r"[\w.-]+", name) and (folder / name.lower() / "config.json").is_file():
            return folder / name.lower()
    return None


def _in_hub_cache(name: str) -> Path:
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    root = Path(os.environ.get("HF_HUB_CACHE") or home / "hub") / f"models--{name.replace('/', '--')}"
    snapshots = sorted(root.glob("snapshots/*/config.json"), key=lambda file: file.stat().st_mtime)
    if snapshots:
        return snapshots[-1].parent
    raise CheckpointError(
        f"there is no directory {name!r}, and no model of this name in the local Hugging Face cache; "
        f"fetch it with: hf download {name}"
    )
