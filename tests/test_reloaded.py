"""What is made of files and made anew when they change."""

import os
from pathlib import Path

import pytest
from patience import eventually

from moesaic.models.errors import SetupError
from moesaic.server import reloaded
from moesaic.server.reloaded import Reloaded, look_after


class Number:
    """What a file says, as a number; how often it was read."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.times = 0

    def read(self) -> int:
        self.times += 1
        try:
            return int(self.file.read_text())
        except ValueError as error:
            raise SetupError(f"no number: {error}") from None


@pytest.fixture
def number(tmp_path: Path) -> Number:
    (tmp_path / "number").write_text("1")
    return Number(tmp_path / "number")


def test_a_file_that_stays_is_read_once(number: Number) -> None:
    found = Reloaded("number", [number.file], number.read)
    for _ in range(5):
        found.look()
    assert (found.current, number.times) == (1, 1)


@pytest.mark.parametrize("text", ["x", ""])
def test_a_wrong_change_is_said_once_and_a_right_one_is_taken_later(
    number: Number, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = Reloaded("number", [number.file], number.read)
    for content in (text, text, "22"):
        number.file.write_text(content)
        found.look()
        found.look()
    assert found.current == 22 and caplog.text.count("read before stays in force: no number") in (1, 2)


def test_a_file_that_is_gone_changes_nothing(number: Number, caplog: pytest.LogCaptureFixture) -> None:
    found = Reloaded("number", [number.file], number.read)
    number.file.unlink()
    found.look()
    assert found.current == 1 and "stays in force" in caplog.text


def test_a_link_that_leads_elsewhere_is_a_change(number: Number, tmp_path: Path) -> None:
    """As Kubernetes replaces secrets."""
    (tmp_path / "other").write_text("2")
    link = tmp_path / "link"
    link.symlink_to(number.file)
    linked = Number(link)
    found = Reloaded("number", [link], linked.read)
    (tmp_path / "new").symlink_to(tmp_path / "other")
    (tmp_path / "new").replace(link)
    found.look()
    assert found.current == 2


def test_a_file_of_the_same_size_and_time_is_a_change_still(number: Number) -> None:
    found, before = Reloaded("number", [number.file], number.read), number.file.stat()
    number.file.write_text("2")
    os.utime(number.file, ns=(before.st_atime_ns, before.st_mtime_ns))
    found.look()
    assert found.current == 2


def test_looking_goes_on_after_what_nobody_expected(number: Number, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloaded, "LOOK_SECONDS", 0.001)
    found = Reloaded("number", [number.file], number.read)
    end = look_after([found])
    number.file.unlink()
    number.file.mkdir()
    eventually(lambda: number.times >= 2)
    number.file.rmdir()
    number.file.write_text("7")
    eventually(lambda: found.current == 7)
    end()
