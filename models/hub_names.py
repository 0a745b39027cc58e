"""Names of models of the Hugging Face Hub: `hf:org/name`, at the newest revision or at one; and where one is pinned."""

import json
import re
from pathlib import Path

from ..kernels.cache import cache_folder
from .errors import CheckpointError

PREFIX = "hf:"
_NAME = re.compile(r"([\w-][\w.-]*/[\w.-]+)(?:@([\w./-]{1,200}))?")
_COMMIT = re.compile(r"[0-9a-f]{4,64}")


def split_name(name: str) -> tuple[str, str | None]:
    """`hf:org/name@revision` -> (`org/name`, `revision`). Raises CheckpointError for what is none."""
    found = _NAME.fullmatch(name.removeprefix(PREFIX))
    if found is None:
        raise CheckpointError(f"{name[:100]!r} is no name of the hub; it is written hf:organisation/model")
    return found[1], found[2]


def pin_file(repository: str) -> Path:
    """Where it is said which commit of a model was fetched, with the hash of each file."""
    return cache_folder() / "hub" / f"{repository.replace('/', '--')}.json"


def pinned(repository: str) -> str | None:
    """The commit that was fetched, or None where none was."""
    try:
        commit = json.loads(pin_file(repository).read_bytes())["commit"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    return commit if isinstance(commit, str) and _COMMIT.fullmatch(commit) else None
