"""Whatever is written for a user is written here: whole or not at all, and a disk that refuses is one sentence.

Files and directories appear under a temporary name beside their own and are renamed. Their modes are what the umask
says, as for any other program; nothing is taken from the folder they lie in. Imports no torch.
"""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from safetensors import SafetensorError

from .errors import OutputError

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_STEM = 50  # characters of a name in its temporary name, which must not pass 255 bytes either


@contextmanager
def new_directory(out: Path, num_bytes: int = 0) -> Iterator[Path]:
    """A fresh folder beside `out` that becomes `out` when the block ends well, and vanishes when it does not.

    num_bytes: about what will be written. Raises OutputError where `out` exists already, where the disk has no room for
    so much, and for what the disk refuses inside the block. What killed runs left behind is removed.
    """
    check_new(out)
    require_space(out, num_bytes)
    made = [each for each in (out.parent, *out.parent.parents) if not each.exists()]  # the deepest first
    folder = _partial(out)
    try:
        with writing(out, num_bytes):
            _make(out, folder)
            yield folder
            _put_in_place(folder, out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        for each in made:
            _remove_if_empty(each)
        raise


def write_whole(file: Path, content: bytes) -> None:
    """Writes under a temporary name, then renames; where that fails nothing is left. Raises OutputError.

    A link stays one: what it leads to is written. A device or a pipe is written as it is.
    """
    _write_together(file, {file: content})


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Writes files by name into a folder, made where it is missing; gives their paths. Raises OutputError.

    None takes its name before all are written, so that a run cut short leaves the files of the run before.
    """
    found = {folder / name: content for name, content in files.items()}
    with _every_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
    _write_together(folder, found)
    return list(found)


def append_line(file: Path, line: str) -> None:
    """Adds a line at the end of a file, made with its folder where it is missing, and waits for the disk.

    Raises OutputError; a line that found no room is taken back.
    """
    with _every_error(file, len(line)):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab", buffering=0) as stream:
            size = stream.tell()
            try:
                _write_all(stream.fileno(), f"{line}\n".encode())
            except BaseException:
                os.truncate(file, size)
                raise


@contextmanager
def writing(out: Path, num_bytes: int = 0) -> Iterator[None]:
    """Turns what a failing disk raises inside the block into an OutputError that names `out`."""
    try:
        yield
    except SafetensorError as error:  # the library wraps the system's error in its own
        if "deserializing" in str(error):
            raise
        raise _refused(out, str(error), num_bytes) from None
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise _refused(out, error.strerror or str(error), num_bytes) from None


def check_new(out: Path) -> None:
    """Raises OutputError, before any work, where `out` cannot become a directory: it exists, or its place is none."""
    check_writable(out.parent, str(out))
    with _every_error(out):
        try:
            os.lstat(out)
        except FileNotFoundError:
            return
    raise _exists(out)


def check_writable(folder: Path, said: str) -> None:
    """Raises OutputError where nothing can be made in a folder, which may be missing. said: how the caller named it."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(each))
    if not there.is_dir():
        raise OutputError(f"{said}: {there} is no directory; name a directory, a new one or an old one")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{said}: nothing can be written in {there}; name another directory")


def check_file(file: Path, said: str) -> None:
    """Raises OutputError where `file` cannot be written; its folder must be there. said: how the caller named it."""
    if not file.absolute().parent.is_dir():
        raise OutputError(f"{said}: there is no directory {file.parent}")
    if file.is_dir():
        raise OutputError(f"{said} is a directory; name a file in it")
    if not os.access(file if file.exists() else file.absolute().parent, os.W_OK):
        raise OutputError(f"{said}: nothing can be written there; name another file")


def require_space(out: Path, num_bytes: int) -> None:
    """Raises OutputError where so many bytes do not fit on the disk that `out` is to lie on."""
    folder, free = _free(out)
    if free < num_bytes:
        raise OutputError(f"{out} needs {num_bytes:,} bytes, {free:,} are free in {folder}; make room first")


def _make(out: Path, folder: Path) -> None:
    with _every_error(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(out)
        folder.mkdir()


def _put_in_place(folder: Path, out: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        _sync(path)
    try:
        folder.rename(out)
    except OSError as error:
        raise (_exists(out) if os.path.lexists(out) else _refused(out, error.strerror or str(error))) from None
    _sync(out.parent)


def _write_together(out: Path, files: Mapping[Path, bytes]) -> None:
    partials: dict[Path, Path] = {}
    try:
        with _every_error(out, sum(map(len, files.values()))):
            for file, content in files.items():
                if file.exists() and not (file.is_file() or file.is_dir()):
                    file.write_bytes(content)
                    continue
                partials[partial := _partial(file.resolve())] = file.resolve()
                _remove_leftovers(file.resolve())
                _write_new(partial, content)
            for partial, file in partials.items():
                partial.replace(file)
    except BaseException:
        for partial in partials:
            partial.unlink(missing_ok=True)
        raise


def _write_new(file: Path, content: bytes) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        _write_all(descriptor, content)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    """All of it, on the disk: a disk that fills up takes a part first and then raises."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    os.fsync(descriptor)


@contextmanager
def _every_error(out: Path, num_bytes: int = 0) -> Iterator[None]:
    """Where all that can fail is the writing."""
    try:
        yield
    except OSError as error:
        raise _refused(out, error.strerror or str(error), num_bytes) from None


def _refused(out: Path, reason: str, num_bytes: int = 0) -> OutputError:
    folder, free = _free(out)
    needed = f"{num_bytes:,} bytes are needed, {free:,} are free" if num_bytes else f"{free:,} bytes are free"
    return OutputError(f"{out} cannot be written: {reason} ({needed} in {folder}); nothing was kept")


def _exists(out: Path) -> OutputError:
    return OutputError(f"{out} exists already; remove it or name another directory")


def _free(out: Path) -> tuple[Path, int]:
    """The nearest folder that is there, and the bytes free in it."""
    folder = next(each for each in out.absolute().parents if each.is_dir())
    return folder, shutil.disk_usage(folder).free


def _partial(out: Path) -> Path:
    return out.with_name(f".{out.name[:_STEM]}.partial-{os.getpid()}-{secrets.token_hex(4)}")


def _remove_leftovers(out: Path) -> None:
    for left in out.parent.glob(f".{escape(out.name[:_STEM])}.partial-*"):
        process = re.search(r"\.partial-(\d+)-", left.name)
        if process and not _is_alive(int(process[1])):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
