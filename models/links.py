"""Links in a model directory: they lead to files of the directory, or of the same entry of a Hugging Face cache.

No torch.
"""

import os
from pathlib import Path

from .errors import CheckpointError

_ENTRY, _SNAPSHOTS, _BLOBS = "models--", "snapshots", "blobs"


def check_links(folder: Path) -> None:
    """Raises CheckpointError where a file that lies in the directory itself is a link out of it.

    What lies deeper is checked where it is read, by `check_inside`.
    """
    try:
        with os.scandir(folder) as found:
            links = sorted(each.name for each in found if each.is_symlink() and not os.path.isdir(each.path))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}") from None
    for name in links:
        check_inside(folder, folder / name)


def check_inside(folder: Path, file: Path) -> None:
    """Raises CheckpointError where the file, or a folder on the way to it, is a link out of the model's directory.

    In a snapshot of a Hugging Face cache links may lead to the files of the same entry, which are named by their hash.
    How the directory itself is reached does not matter.
    """
    try:
        there, target = folder.resolve(), file.resolve()
    except (OSError, RuntimeError):  # a link to itself
        raise CheckpointError(f"{file} is a link that leads nowhere; copy the file itself there") from None
    if not target.is_relative_to(there) and target.parent != _blobs(there):
        raise CheckpointError(
            f"{file} is a link to {target}, out of the model's directory; copy the file itself there, in its place"
        )


def _blobs(folder: Path) -> Path | None:
    """Where the files lie of the cache entry models--org--name that the folder is a snapshot of, or lies in one."""
    for each in (folder, *folder.parents):
        entry = each.parent.parent
        if each.parent.name == _SNAPSHOTS and entry.name.startswith(_ENTRY):
            return entry / _BLOBS
    return None
