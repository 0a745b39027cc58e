"""Whatever is written: its modes, a disk that refuses, outputs that cannot be, and readers that leave."""

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gguf_builder import byte_level, random_weights, write_gguf

from moesaic.kernels.cache import cache_folder
from moesaic.models.errors import OutputError
from moesaic.models.files import append_line, check_file, new_directory, write_files, write_whole

MOESAIC = f"{sys.executable} -m moesaic.cli.main"


def bash(script: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """`moesaic` in the script is ours; no file of stages or scores is shared with other tests, C++ libraries are."""
    (folder / "cache").mkdir(exist_ok=True)
    (folder / "cache" / "native").symlink_to(cache_folder() / "native")
    environment = {**os.environ, "MOESAIC_CACHE": str(folder / "cache")}
    script = f'moesaic() {{ {MOESAIC} "$@"; }}\n{script}'
    return subprocess.run(["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("parent", [0o1777, 0o777, 0o755])
def test_modes_are_those_of_the_umask_whatever_the_parent_allows(tmp_path: Path, umask: int, parent: int) -> None:
    tmp_path.chmod(parent)
    with new_directory(tmp_path / "deep" / "out") as folder:
        (folder / "config.json").touch()
    write_files(tmp_path / "report", {"report.json": b"{}"})
    write_whole(tmp_path / "figures.json", b"{}")
    append_line(tmp_path / "points" / "points.jsonl", "{}")
    for each in tmp_path.rglob("*"):
        assert mode(each) == (0o777 if each.is_dir() else 0o666) & ~umask, each


def test_a_model_directory_and_its_files_have_the_modes_of_the_umask(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    done = bash("umask 077; moesaic export stories260k out --to dense", tmp_path)
    assert done.returncode == 0 and mode(tmp_path / "out") == 0o700
    assert {mode(file) for file in (tmp_path / "out").iterdir()} == {0o600}


REFUSED_BY_THE_DISK = {
    "export": "moesaic export stories260k out --to dense",
    "compress": "moesaic compress stories260k out --recipe int8",
    "import": "moesaic import m.gguf out",
}


@pytest.mark.parametrize("command", REFUSED_BY_THE_DISK.values(), ids=REFUSED_BY_THE_DISK)
def test_a_disk_that_refuses_is_one_sentence_and_leaves_nothing(tmp_path: Path, command: str) -> None:
    """A limit on the size of a file is the disk that can be had without a mount."""
    write_gguf(tmp_path / "m.gguf", random_weights(), byte_level())
    done = bash(f"export HF_HUB_OFFLINE=1; ulimit -f 100; {command}", tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "cannot be written: " in last and "File too large" in last and "bytes are needed, " in last
    assert names(tmp_path) in (["m.gguf"], ["cache", "m.gguf"])
    assert not list((tmp_path / "cache").rglob("*.partial-*")) and not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO])
def test_every_way_in_which_a_disk_refuses_is_told_with_what_was_needed(tmp_path: Path, number: int) -> None:
    with pytest.raises(OutputError, match=rf"out cannot be written: {os.strerror(number)} \(5 bytes are needed"):
        with new_directory(tmp_path / "deep" / "er" / "out", 5) as folder:
            (folder / "begun").touch()
            raise OSError(number, os.strerror(number))
    assert not names(tmp_path)


def test_what_another_file_does_is_not_taken_for_the_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), new_directory(tmp_path / "out"):
        (tmp_path / "missing").read_bytes()
    with pytest.raises(KeyboardInterrupt), new_directory(tmp_path / "a" / "out"):
        raise KeyboardInterrupt
    assert not names(tmp_path)


@pytest.mark.parametrize("out", ["file", "file/out", "folder", "dangling", "dangling/out", "loop", "n" * 300])
def test_an_output_that_cannot_be_is_refused_and_left_alone(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = names(tmp_path)
    with pytest.raises(OutputError, match="exists already|is no directory|File name too long"):
        with new_directory(tmp_path / out):
            pytest.fail("it began")
    assert names(tmp_path) == before and (tmp_path / "file").read_text() == "mine" and not names(tmp_path / "folder")


def test_a_name_as_long_as_the_disk_allows_can_be_written(tmp_path: Path) -> None:
    with new_directory(tmp_path / ("é" * 127)):
        pass
    write_whole(tmp_path / ("f" * 255), b"x")
    assert names(tmp_path) == ["f" * 255, "é" * 127]


def test_a_folder_that_nothing_can_be_written_in_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, how: False)  # as on a read-only disk; root may else do anything
    with pytest.raises(OutputError, match=f"nothing can be written in {tmp_path}; name another directory"):
        with new_directory(tmp_path / "a" / "out"):
            pytest.fail("it began")
    with pytest.raises(OutputError, match="--json f: nothing can be written there"):
        check_file(tmp_path / "f", "--json f")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_whole(tmp_path / "file", b"before")

    def full(descriptor: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match=r"file cannot be written: No space .* \(5 bytes are needed, [0-9,]+ are"):
        write_whole(tmp_path / "file", b"after")
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_bytes() == b"before"


def test_files_cut_short_leave_those_before_them_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, {"one": b"before", "two": b"before"})
    write, calls = os.write, []

    def full(descriptor: int, content: bytes) -> int:
        calls.append(content)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_files(tmp_path, {"one": b"after", "two": b"after"})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"one": b"before", "two": b"before"}


def test_a_line_that_found_no_room_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append_line(tmp_path / "points", "first")
    write = os.write

    def full(descriptor: int, content: bytes) -> int:
        if len(content) < 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content[:4])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OutputError, match="points cannot be written: No space left on device"):
        append_line(tmp_path / "points", "second")
    assert (tmp_path / "points").read_text() == "first\n"


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there" / "file")
    write_whole(tmp_path / "link", b"through")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there" / "file").read_bytes() == b"through"
    write_whole(Path(os.devnull), b"gone")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_what_a_killed_run_left_of_a_file_is_removed(tmp_path: Path) -> None:
    for name in (".file.partial-999999999-a", f".file.partial-{os.getppid()}-a", ".other.partial-999999999-a"):
        (tmp_path / name).touch()
    write_whole(tmp_path / "file", b"x")
    assert names(tmp_path) == [f".file.partial-{os.getppid()}-a", ".other.partial-999999999-a", "file"]


@pytest.mark.parametrize("how", [">&-", "2>&-", ">&- 2>&- <&-", "| true", "2>&1 | true", "> /dev/null"])
def test_work_that_was_done_is_success_whoever_listens(tmp_path: Path, how: str) -> None:
    done = bash(f"moesaic export stories260k out --to dense {how}; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(names(tmp_path / "out"))


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    """Descriptor 1 is the next that is free; what is printed must not end in the file that would get it."""
    command = "MOESAIC_NATIVE=0 moesaic eval stories260k --truncate 8 --documents 1 --json figures.json >&- 2>&-"
    assert bash(command, tmp_path).returncode == 0
    assert json.loads((tmp_path / "figures.json").read_text())["tokens"] == 7


def test_output_that_finds_no_room_is_told_once(tmp_path: Path) -> None:
    done = bash("moesaic recipes list > /dev/full", tmp_path)
    assert done.returncode == 2 and done.stderr == "moesaic: error: No space left on device\n"
