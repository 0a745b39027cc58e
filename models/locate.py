"""From what a person types to a model directory: a path, the short name of a model at hand, or a hub name."""

import json
import os
import re
from pathlib import Path

from ..kernels.cache import cache_folder
from .errors import CheckpointError
from .hub_names import PREFIX, pinned, split_name
from .intake.registry import SOURCES, Source
from .links import check_links
from .optional_json import FORMS
from .suggestion import meant

EMBEDDED = Path(__file__).parent / "embedded"
DEFAULT_MODEL = "stories260k"


def short_names() -> list[str]:
    """The models that can be used by a short name right now."""
    folders = [EMBEDDED, cache_folder() / "models"]
    return sorted({file.parent.name for folder in folders for file in folder.glob("[!.]*/config.json")})


def locate(name_or_path: str | Path) -> Path:
    """The directory meant. Raises CheckpointError with what is at hand, or with the command that would fetch it; and
    where a file in it is a link that leads out of it.
    """
    folder = _found(str(name_or_path))
    check_links(folder)
    return folder


def _found(text: str) -> Path:
    if text.startswith(PREFIX):
        return _in_hub_cache(*split_name(text))
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
        raise _not_at_hand(source)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text):
        return _in_hub_cache(text)
    raise CheckpointError(
        f"there is no model directory {text!r}; "
        + (_meant(text) or f"models at hand: {', '.join(short_names())}; more can be fetched: moesaic models list")
    )


def _meant(text: str, likeness: float = 0.6) -> str:
    """The short name that the last part of a path is like, with the way to it; or nothing."""
    name = meant(Path(text).name, {*short_names(), *SOURCES}, likeness)
    if name is None:
        return ""
    return f"did you mean {name!r}?" + ("" if by_short_name(name) else f" {_not_at_hand(SOURCES[name])}")


def _not_at_hand(source: Source) -> CheckpointError:
    return CheckpointError(
        f"{source.name} is not at hand yet; fetch it ({source.fetch_bytes / 1e6:.0f} MB) with: "
        f"moesaic models get {source.name}"
    )


def by_short_name(name: str) -> Path | None:
    """The directory of a model that ships or is in the cache, or None."""
    for folder in (EMBEDDED, cache_folder() / "models"):
        if re.fullmatch(r"[\w.-]+", name) and (folder / name.lower() / "config.json").is_file():
            return folder / name.lower()
    return None


def _in_hub_cache(name: str, revision: str | None = None) -> Path:
    """The snapshot that `models get` fetched, else the one that the library of the Hugging Face cache would take; no
    network is asked. Refused where it is not all there."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    unset = " with HF_HUB_OFFLINE unset" if constants.HF_HUB_OFFLINE else ""
    at = f"@{revision}" if revision else ""
    fetch = f"fetch it{unset} with: moesaic models get {PREFIX}{name}{at}"
    fetch_or_other = f"{other} Else {fetch}" if (other := _meant(name, likeness=0.8)) else fetch
    try:
        snapshot = Path(snapshot_download(name, revision=revision or pinned(name), local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        raise CheckpointError(
            f"there is no directory {name!r}, and no model of this name in the local Hugging Face cache "
            f"({constants.HF_HUB_CACHE}); {fetch_or_other}"
        ) from None
    if missing := _missing(snapshot):
        raise CheckpointError(
            f"{name} is in the local Hugging Face cache ({snapshot}) and lacks {' and '.join(missing)}: "
            f"its download was cut short, or the model has none; {fetch}"
        )
    return snapshot


def _missing(snapshot: Path) -> list[str]:
    """What a model directory needs and this one has not. Links whose file is gone count as missing."""
    words = next((names for names in FORMS if all((snapshot / name).is_file() for name in names)), FORMS[0])
    needed = ["config.json", *_weights(snapshot), *words]
    return [name for name in needed if not (snapshot / name).is_file()]


def _weights(snapshot: Path) -> list[str]:
    """The whole file or the shards; none where the weights are pickles, which are refused when they are opened."""
    index = snapshot / "model.safetensors.index.json"
    if os.path.lexists(snapshot / "model.safetensors") or not index.is_file():
        return [] if any(file.is_file() for file in snapshot.glob("*.bin")) else ["model.safetensors"]
    try:
        return sorted({str(file) for file in json.loads(index.read_bytes())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []  # damaged, which is said when it is read
