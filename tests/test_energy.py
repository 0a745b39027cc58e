"""Joules, where a machine counts them."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from moesaic.bench.energy import NOT_MEASURED, Reading, Stretch, energy_of, read_energy, told
from moesaic.bench.gpu.summary import summary


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


class NVMLError(Exception):
    pass


def nvml(count: int = 2, fails: str = "", joules: Iterator[float] | None = None) -> ModuleType:
    """A stand-in for pynvml. fails: the call that a driver refuses. joules: of every board, one after the other."""

    def call(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def answered(*asked: int) -> Any:
            if name == fails:
                raise NVMLError("Driver Not Loaded")
            return answer(*asked)

        return answered

    counted = joules or iter(range(100))
    found = ModuleType("pynvml")
    answers: dict[str, Callable[..., Any]] = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: count,
        "nvmlDeviceGetHandleByIndex": lambda i: i,
        "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 1e3 * next(counted),
    }
    for name, answer in answers.items():
        setattr(found, name, call(name, answer))
    found.NVMLError = NVMLError  # type: ignore[attr-defined]
    return found


def test_boards_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(joules=iter([1, 10, 3, 15])))
    before = read_energy(tmp_path)
    assert before.joules == {"gpu 0": 1, "gpu 1": 10} and before.until(read_energy(tmp_path)) == 7


@pytest.mark.parametrize("fails", ["nvmlInit", "nvmlDeviceGetCount", "nvmlDeviceGetTotalEnergyConsumption"])
def test_a_driver_that_refuses_is_a_sentence(fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(fails=fails))
    found = read_energy(tmp_path)
    assert found.joules == {} and f"no counter of RAPL below {tmp_path}; NVML" in found.why
    assert found.why.startswith("not measured: ") and "Driver Not Loaded" in found.why


def test_without_nvml_the_way_to_get_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "pip install 'moesaic[gpu]'" in read_energy(tmp_path).why


def test_a_machine_without_a_board_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(count=0))
    assert "NVML: there is no GPU" in read_energy(tmp_path).why


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[float], None]]:
    """A clock that stands until it is set on; a board spends 2 W."""
    now = [0.0]
    monkeypatch.setattr("moesaic.bench.energy.time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr("moesaic.bench.energy.read_energy", lambda: Reading({"gpu 0": 2 * now[0]}, {}))
    yield lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_a_call_is_repeated_until_counters_can_tell(clock: Callable[[float], None]) -> None:
    calls: list[float] = []

    def call() -> None:
        calls.append(0.2)
        clock(calls[-1])

    found = energy_of(call, tokens=4)
    assert len(calls) == 3 and found == {"joules_per_token": pytest.approx(0.1)}
    assert [*told({"ours": found})] == ["energy, ours: 0.1 J a token, of all that this machine spent"]


def test_too_short_a_stretch_is_no_figure(clock: Callable[[float], None]) -> None:
    stretch = Stretch()
    clock(0.1)
    found = stretch.figures(5)
    assert found["joules_per_token"] is None and "0.1 s are too few" in found["energy"]


def test_where_nothing_is_counted_nothing_is_repeated_and_one_line_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moesaic.bench.energy.read_energy", lambda: Reading({}, {}, ("no RAPL",)))
    calls: list[int] = []
    found = energy_of(lambda: calls.append(1), tokens=1)
    assert calls == [] and [*told({"a": found, "b": found, "old": {}})] == [f"energy: {NOT_MEASURED} (no RAPL)"]


def test_the_gpu_script_prints_joules_or_why_there_are_none() -> None:
    row = {"contestant": "ours", "batch": 8, "how": "a step", "ms_per_step": 1.0}
    rows = [{**row, "joules_per_token": 0.5}, {**row, "how": "modules, eager"}]
    report = {"section": "end_to_end", "state": "done", "seconds": 1.0, "rows": rows}
    assert "energy, ours, batch 8: 0.5 J a token" in summary([report])
    silent = {**report, "rows": [{**row, "joules_per_token": None, "energy": NOT_MEASURED}]}
    assert f"energy: {NOT_MEASURED}" in summary([silent])
