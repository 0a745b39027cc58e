"""Innermost loops of a shared library, as objdump shows them."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ...kernels.native import FLAGS, SOURCES, find_compiler, native_status

_RIVALS = Path(__file__).parent / "rivals.cpp"


def our_library() -> Path | None:
    """The library of kernels/cpp/, where it can be built."""
    return native_status().path


@cache
def rivals_library() -> Path:
    """That of rivals.cpp, built as ours is, for as long as this process lives. Raises NativeError and OSError."""
    built = Path(_folder().name) / "librivals.so"
    command = [find_compiler(), *FLAGS, "-shared", "-I", str(SOURCES), str(_RIVALS), "-o", str(built)]
    subprocess.run(command, capture_output=True, check=True)
    return built


@cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    """One that goes with the process."""
    return tempfile.TemporaryDirectory()


@cache
def compiler_version() -> str:
    """The compiler's own name and number: GCC's registers are not another's."""
    shown = subprocess.run([find_compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    return shown.splitlines()[0]


@cache
def _functions(library: Path) -> dict[str, list[str]]:
    """Lines of code by the demangled name of a function."""
    command = ["objdump", "-d", "-C", "--no-show-raw-insn", str(library)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^[0-9a-f]+ <([^\n]*)>:\n(.*?)\n(?:\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return {name: code.splitlines() for name, code in found if "@plt" not in name}


def loops(library: Path, function: str) -> list[list[str]]:
    """The innermost loops of the functions whose name holds `function`, in order: the instructions of each.

    Raises OSError where there is no objdump.
    """
    return [each for name, code in _functions(library).items() if function in name for each in _loops(code)]


def _loops(code: list[str]) -> Iterator[list[str]]:
    lines = [line.split("\t") for line in code]
    places = {line[0].strip(" :"): i for i, line in enumerate(lines)}
    jumps = [
        (places.get(_target(line), i + 1), i) for i, line in enumerate(lines) if len(line) > 1 and line[1][0] == "j"
    ]
    back = sorted((begin, end) for begin, end in jumps if begin <= end)
    for begin, end in back:
        if not any(begin <= b and e <= end and (b, e) != (begin, end) for b, e in back):
            yield [line[1].strip() for line in lines[begin : end + 1] if len(line) > 1]


def _target(line: list[str]) -> str:
    return line[1].split()[1] if len(line[1].split()) > 1 else ""
