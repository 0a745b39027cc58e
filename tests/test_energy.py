"""Joules, where a machine counts them."""

from pathlib import Path

import pytest

from moesaic.bench.energy import Reading, read_energy


def package(folder: Path, name: str, joules: float, most: float = 100.0) -> None:
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "energy_uj").write_text(f"{joules * 1e6:.0f}\n")
    (folder / name / "max_energy_range_uj").write_text(f"{most * 1e6:.0f}\n")


def test_packages_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        package(tmp_path, name, 10)
    before = read_energy(tmp_path)
    for name in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        package(tmp_path, name, 12)
    assert before.until(read_energy(tmp_path)) == pytest.approx(4)


def test_a_counter_that_began_again_is_still_right(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 99)
    before = read_energy(tmp_path)
    package(tmp_path, "intel-rapl:0", 3)
    assert before.until(read_energy(tmp_path)) == pytest.approx(4)


def test_a_machine_that_tells_nothing_is_not_measured(tmp_path: Path) -> None:
    assert Reading({}, {}).until(read_energy(tmp_path / "none")) is None


def test_a_counter_that_may_not_be_read_is_none(tmp_path: Path) -> None:
    package(tmp_path, "intel-rapl:0", 1)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("secret")
    assert read_energy(tmp_path).joules == {}
