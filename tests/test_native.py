"""Building and loading the C++ library: once, safely, and with a reason when it fails."""

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from moesaic.kernels import native as module
from moesaic.kernels.native import ISAS, NativeError, build_hash, build_library, native, native_status


@pytest.fixture
def compiler() -> str:
    try:
        path: str = module.find_compiler()
    except NativeError as reason:
        pytest.skip(str(reason))
    return path


@pytest.fixture
def one_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is built is one function."""
    (tmp_path / "cpp").mkdir()
    (tmp_path / "cpp" / "one.cpp").write_text('extern "C" int moesaic_isa() { return 1; }')
    monkeypatch.setattr(module, "SOURCES", tmp_path / "cpp")


@pytest.fixture
def unloaded() -> Iterator[None]:
    """What was loaded before is forgotten, here and afterwards."""
    module._load.cache_clear()
    yield
    module._load.cache_clear()


def test_the_status_names_the_library_and_the_instruction_set(compiler: str) -> None:
    status = native_status()
    assert status.available and not status.reason
    assert status.path is not None and status.path.is_file()
    assert status.isa in ISAS and status.compiler == compiler


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the library runs on one thread")
def test_the_threads_are_those_of_torch(compiler: str) -> None:
    assert native_status().shares_threads == ("OpenMP" in torch.__config__.parallel_info())
    asked = "from moesaic.kernels.native import native_status; native_status(); print(open('/proc/self/maps').read())"
    maps = subprocess.run([sys.executable, "-P", "-c", asked], capture_output=True, text=True, check=True).stdout
    runtimes = {line.split()[-1] for line in maps.splitlines() if "libgomp" in line}
    assert len(runtimes) <= 1 and "libmoesaic" in maps


@pytest.mark.usefixtures("one_source")
def test_of_two_who_ask_at_once_one_builds_and_the_other_is_told_that_it_waits(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(module, "_say", said.append)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: build_library(compiler, tmp_path), range(2))
    assert first == second
    assert {path.name for path in first.parent.iterdir()} == {"libmoesaic.so", "lock"}
    assert ctypes.CDLL(str(first)).moesaic_isa() == 1
    assert sorted(line.split(",")[0] for line in said) == [
        "building the C++ kernels", "waiting for another process"
    ]  # fmt: skip


def test_a_library_that_is_there_is_not_built_again(compiler: str, tmp_path: Path) -> None:
    there = tmp_path / build_hash(compiler) / "libmoesaic.so"
    there.parent.mkdir()
    there.write_bytes(b"built before")
    assert build_library(compiler, tmp_path) == there
    assert there.read_bytes() == b"built before"


def test_other_flags_are_another_build(compiler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build_hash(compiler)
    monkeypatch.setattr(module, "FLAGS", ("-O1",))
    assert build_hash(compiler) != before


def test_sources_that_do_not_compile_give_the_complaint(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.cpp").write_text("this is no C++")
    monkeypatch.setattr(module, "SOURCES", tmp_path)
    with pytest.raises(NativeError, match=r"failed: .*broken\.cpp"):
        build_library(compiler, tmp_path / "cache")


@pytest.mark.usefixtures("unloaded")
def test_no_compiler_is_a_reason_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert native() is None
    assert native_status().reason.startswith("no C++ compiler found")


@pytest.mark.usefixtures("compiler", "unloaded")
def test_the_library_of_a_wheel_needs_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = native_status().path
    assert built is not None
    monkeypatch.setattr(module, "carried_library", lambda: built)
    monkeypatch.setenv("PATH", "")
    module._load.cache_clear()
    assert native() is not None and native_status().compiler == ""


@pytest.mark.usefixtures("unloaded")
def test_a_library_of_another_system_is_passed_over(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.so").write_bytes(b"of another system")
    monkeypatch.setattr(module, "carried_library", lambda: tmp_path / "other.so")
    assert native() is not None and native_status().compiler == compiler


@pytest.mark.usefixtures("compiler", "unloaded")
def test_a_cache_that_cannot_be_written_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "moesaic").write_text("a file where the folder should be")
    monkeypatch.delenv("MOESAIC_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native() is None
    assert "moesaic" in native_status().reason


def test_importing_builds_nothing() -> None:
    program = "from moesaic.kernels import int8_linear, native; print(native._load.cache_info().misses)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
