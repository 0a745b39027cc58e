"""What peers make of a model's weights, made once and kept in the cache folder."""

from collections.abc import Callable
from pathlib import Path

from ...kernels.cache import cache_folder
from ...models.checkpoint import sha256_of
from ...models.files import new_directory


def made_once(source: Path, name: str, make: Callable[[Path], object]) -> Path:
    """The folder that `make` filled from a file of this content; nothing is downloaded. Raises what `make` raises."""
    folder = cache_folder() / "peers" / f"{sha256_of(source)[:16]}-{name}"
    if not folder.is_dir():
        with new_directory(folder, 2 * source.stat().st_size) as made:
            make(made)
    return folder
