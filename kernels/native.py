"""The C++ kernels of cpp/: built once with the machine's compiler, loaded with ctypes, and never required.

The library has a C interface and no torch headers, so that a build takes seconds. It comes with a wheel that was built
where a compiler was; else it lies in the user's cache under a hash of sources, flags and compiler. Whatever goes wrong
is kept as a reason, and torch does the work.
"""

import ctypes
import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .cache import cache_folder

SOURCES = Path(__file__).parent / "cpp"
COMPILERS = ("c++", "g++", "clang++")
FLAGS = (  # no contraction: the same sum everywhere; nobody asks for traps and errno, without which loops are vectors
    "-O3", "-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno", "-std=c++17", "-fPIC", "-pthread",
)  # fmt: skip
ISAS = ("portable", "avx2", "avx512", "avx512_bf16")  # the order of `enum Isa` in cpp/isa.h
BUILD_SECONDS = 900  # it takes half a minute, on a busy machine several; this ends a compiler that hangs
_say: Callable[[str], object] = str  # who hears of a build; nobody, until someone asks to


@dataclass(frozen=True)
class NativeStatus:
    """What `moesaic doctor` says. `reason` is empty when `available`; `isa` is one of ISAS or empty.

    compiler: empty where the library came with the wheel.
    """

    available: bool
    reason: str = ""
    path: Path | None = None
    isa: str = ""
    compiler: str = ""
    shares_threads: bool = False  # with the OpenMP runtime that torch brought; else one thread


@dataclass(frozen=True)
class Native:
    """The loaded library; `isa` is an index into ISAS, the best that this processor has."""

    library: ctypes.CDLL
    isa: int


class NativeError(Exception):
    """The library cannot be had; the message is the reason."""


def announce_builds(say: Callable[[str], object]) -> None:
    """From now on `say` is given a line before a build begins."""
    global _say
    _say = say


def find_compiler() -> str:
    """The path of a C++ compiler. Raises NativeError when there is none."""
    for name in COMPILERS:
        if path := shutil.which(name):
            return path
    raise NativeError(f"no C++ compiler found (looked for {', '.join(COMPILERS)})")


def build_hash(compiler: str) -> str:
    """Names a build by all that goes into it."""
    return _hash(_run([compiler, "--version"]))


def _hash(compiler: str = "") -> str:
    parts = [path.read_bytes() for path in sorted(SOURCES.iterdir()) if path.suffix in (".cpp", ".h")]
    return hashlib.sha256(b"\0".join([compiler.encode(), " ".join(FLAGS).encode(), *parts])).hexdigest()[:16]


def carried_library() -> Path:
    """Where a wheel has the library of these sources, whoever compiled them, if it has it."""
    return SOURCES.parent / "built" / f"libmoesaic-{_hash()}.so"


def build_library(compiler: str, folder: Path) -> Path:
    """The library for these sources, compiled unless it is there; where several processes ask at once, by one of them.

    Raises NativeError when the compiler fails, OSError when `folder` cannot be written.
    """
    target = folder / build_hash(compiler) / "libmoesaic.so"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _only_builder(target.parent):
        return target if target.exists() else _build(compiler, target)


@contextmanager
def _only_builder(folder: Path) -> Iterator[None]:
    """One process at a time; the system lets go when it ends, however it does."""
    with (folder / "lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("waiting for another process, which builds the C++ kernels")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(compiler: str, target: Path) -> Path:
    _say("building the C++ kernels, once on this machine: this may take a minute")
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        built = Path(temporary) / target.name
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            compiled = pool.map(functools.partial(_compile, compiler, Path(temporary)), sorted(SOURCES.glob("*.cpp")))
            _run([compiler, *FLAGS, "-shared", *compiled, "-o", str(built)])
        os.replace(built, target)
    return target


def _compile(compiler: str, folder: Path, source: Path) -> str:
    """The path of the object that it makes of one source."""
    made = folder / f"{source.stem}.o"
    _run([compiler, *FLAGS, "-c", str(source), "-o", str(made)])
    return str(made)


def _run(command: list[str]) -> str:
    """Runs a command for its standard output. Raises NativeError with the first line of complaint."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS)
    except subprocess.TimeoutExpired:
        raise NativeError(f"{command[0]} took more than {BUILD_SECONDS} s") from None
    if done.returncode:
        complaint = (done.stderr.strip() or "no message").splitlines()[0]
        raise NativeError(f"{command[0]} failed: {complaint}")
    return done.stdout


@functools.cache
def _load() -> tuple[Native | None, NativeStatus]:
    compiler = ""
    try:
        if os.environ.get("MOESAIC_NATIVE") == "0":
            raise NativeError("turned off by MOESAIC_NATIVE=0")
        path, found = carried_library(), None
        with suppress(OSError):  # none is there, or it is of another system
            found = ctypes.CDLL(str(path))
        if found is None:
            compiler = find_compiler()
            path = build_library(compiler, cache_folder() / "native")
            found = ctypes.CDLL(str(path))
        library = _declare(found)
    except (NativeError, OSError, RuntimeError) as error:  # RuntimeError: no home directory
        return None, NativeStatus(False, reason=str(error), compiler=compiler)
    native = Native(library, library.moesaic_isa())
    threads = bool(library.moesaic_has_threads())
    return native, NativeStatus(True, "", path, ISAS[native.isa], compiler, threads)


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Declares argument types, once: ctypes would otherwise pass pointers as 32-bit integers."""
    pointer, size, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.moesaic_linear.argtypes = [*[pointer] * 5, *[size] * 4, flag, flag, flag]
    library.moesaic_linear.restype = None
    library.moesaic_expert_ffn.argtypes = [*[pointer] * 4, size, size, flag]
    library.moesaic_expert_ffn.restype = None
    library.moesaic_rows.argtypes = [*[pointer] * 3, *[size] * 4, flag, flag, flag]
    library.moesaic_rows.restype = None
    library.moesaic_plane_ffn.argtypes = [*[pointer] * 6, size, size, flag, flag, flag]
    library.moesaic_plane_ffn.restype = flag
    library.moesaic_graded_linear.argtypes = [*[pointer] * 5, size, size, flag]
    library.moesaic_graded_linear.restype = flag
    library.moesaic_digit_linear.argtypes = [*[pointer] * 3, size, size, flag]
    library.moesaic_digit_linear.restype = flag
    library.moesaic_program.argtypes = [pointer, size, pointer, size, flag, flag]
    library.moesaic_program.restype = flag
    library.moesaic_graded_unpack.argtypes = [pointer, pointer, *[size] * 4, pointer, size, size]
    library.moesaic_graded_unpack.restype = None
    library.moesaic_graded_pack.argtypes = [pointer, pointer, *[size] * 4, pointer, size]
    library.moesaic_graded_pack.restype = None
    scale = ctypes.c_double
    library.moesaic_paged_attention.argtypes = [
        *[pointer] * 11, *[size] * 15, scale, size, scale, size, flag, flag, pointer, pointer, size, size,
    ]  # fmt: skip
    library.moesaic_paged_attention.restype = flag
    return library


def native() -> Native | None:
    """The library, built on the first call, or None: `native_status` has the reason."""
    return _load()[0]


def native_status() -> NativeStatus:
    """Whether the C++ kernels are used, and if not, why."""
    return _load()[1]
