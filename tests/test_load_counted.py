"""What is no result is told, and stands in no table, no picture and no comparison."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from load_records import driven, record
from patience import FakeClock

from moesaic.bench.compare import compared, warnings
from moesaic.bench.evidence.chart import Drawn
from moesaic.bench.evidence.under_load import under_load
from moesaic.bench.load import drive as driving
from moesaic.bench.load.arrivals import Asked, Lengths, Level, closed
from moesaic.bench.load.counted import counted, why_not_counted
from moesaic.bench.load.door import OK, Came
from moesaic.bench.load.drive import Driven, drive
from moesaic.bench.load.figures import Limits, figures
from moesaic.bench.load.run import notes, rows
from moesaic.bench.server import measure
from moesaic.cli.main import main

GOOD = [record(i, [i + 0.2 + i % 3 / 100, i + 0.3], tier="low") for i in range(9)]
OFF: dict[str, dict[str, Any]] = {
    "the generator was the limit": {"limit": True},
    "the clock was set by 3600.0 s meanwhile": {"stepped": 3600.0},
    "the clock was set by -2.0 s meanwhile": {"stepped": -2.0},
    "given up, it is gone": {"gone": "it is gone"},
}


def report(*, off: dict[str, Any], levels: int = 2) -> dict[str, Any]:
    """Levels of which the last one is off."""
    found = [figures(driven(*GOOD), Limits()) for _ in range(levels - 1)] + [figures(driven(*GOOD, **off), Limits())]
    return {
        "kind": "load", "command": "x", "complete": True, "limits": {}, "targets": {"it": {"place": "it"}},
        "machine": {"device": "a processor", "processors": 2, "versions": {}, "commit": None},
        "levels": [{"name": f"users {i}", "users": i, "results": {"it": each}} for i, each in enumerate(found, 1)],
    }  # fmt: skip


@pytest.mark.parametrize("why", OFF)
def test_a_table_says_why_a_level_is_not_counted_and_has_no_figure_of_it(why: str) -> None:
    good, off = rows(report(off=OFF[why]))[1]
    assert good[2] == "9 of 9" and all(good[3:])
    assert off[2] == f"not counted: {why}" and not any(off[3:]) and len(off) == len(good)
    assert f"users 2, it: not counted: {why}" in [*notes(report(off=OFF[why]))]


def test_what_counts_is_told_without_a_word() -> None:
    assert not [line for line in notes(report(off={"stepped": 0.05})) if "counted" in line]


@pytest.mark.parametrize("why", OFF)
def test_pictures_and_tables_by_tier_are_of_what_counts(why: str) -> None:
    whole, section = report(off=OFF[why]), under_load(report(off=OFF[why]), "a", "a.json")
    assert [len(level["results"]) for level in counted(whole)["levels"]] == [1, 0]
    assert len(section.pictures) == 3 and not any("users 2" in each.alt for each in section.pictures)
    assert [row[0] for row in section.tables[1].content[1]] == ["users 1"]


def test_a_level_that_does_not_count_is_nowhere_in_a_picture() -> None:
    off = under_load(whole := report(off={"limit": True}), "a", "a.json").pictures[0]
    alone = under_load({**whole, "levels": whole["levels"][:1]}, "a", "a.json").pictures[0]
    assert isinstance(off, Drawn) and isinstance(alone, Drawn) and off.panels() == alone.panels()


def test_a_report_of_which_nothing_counts_has_no_picture() -> None:
    section = under_load(report(off={"limit": True}, levels=1), "a", "a.json")
    assert not section.pictures and "not counted" in str(section.tables[0].content)


@pytest.mark.parametrize("why", OFF)
def test_comparing_leaves_out_what_does_not_count_and_says_so(why: str) -> None:
    sound, off = report(off={}), report(off=OFF[why])
    assert {change.name.split()[2] for change in compared(sound, sound, 0.03)} == {"1", "2"}
    assert {change.name.split()[2] for change in compared(sound, off, 0.03)} == {"1"}
    assert f"left out, users 2, it after: {why}" in [*warnings(sound, off)]
    assert f"left out, users 2, it before: {why}" in [*warnings(off, sound)]
    assert not any(line.startswith("left out, users") for line in warnings(sound, sound))


def test_comparing_what_does_not_count_at_all_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file := tmp_path / "a.json").write_text(json.dumps(report(off={"limit": True}, levels=1)))
    assert main(["bench", "compare", str(file), str(file)]) == 2
    told = capsys.readouterr()
    assert "left out, users 1, it before: the generator was the limit" in told.out
    assert "no figure in common that counts" in told.err


class SteppingClock(FakeClock):  # type: ignore[misc]
    """A clock of the wall that somebody sets by an hour."""

    wall = 0.0

    def time(self) -> float:
        return float(self.now + self.wall)

    def process_time(self) -> float:
        return 0.0


class ScriptedDoor:
    """Answers everything at once; meanwhile the clock is set."""

    def __init__(self, clock: SteppingClock, by: float = 0.0) -> None:
        self._clock, self._by, self._asked = clock, by, list[int]()

    def send(self, key: int, prompt: str, asked: Asked) -> None:
        self._asked.append(key)

    def arrived(self, seconds: float) -> Iterator[Came]:
        self._clock.now += 0.01
        self._clock.wall = self._by
        asked, self._asked = self._asked, []
        yield from (Came(key, self._clock.now, 1, end=OK) for key in asked)

    def close(self) -> None:
        """There is nothing to hang up."""


@pytest.mark.parametrize("by", [0.0, 3600.0, -3600.0])
def test_a_clock_that_was_set_while_it_was_measured_is_noticed(by: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "time", clock := SteppingClock())
    with closing(ScriptedDoor(clock, by)) as door:
        found = drive(door, Level("a", (Asked(8, 1, at=0.0),), 0.1), lambda number, tokens: "", 1.0)
    assert found.stepped == by and [each.ok for each in found.records] == [True]
    assert ("the clock was set" in why_not_counted(figures(found, Limits()))) == bool(by)


def closed_loop(users: int, seconds: float, monkeypatch: pytest.MonkeyPatch) -> Driven:
    """By a generator that needs so long to make a request; time stands still otherwise."""
    clock = SteppingClock()
    for module in (driving, measure):
        monkeypatch.setattr(module, "time", clock)

    def prompt(number: int, tokens: int) -> str:
        clock.sleep(seconds)
        return ""

    with closing(ScriptedDoor(clock)) as door:
        return drive(door, closed(users, 1.0, Lengths(), {}, 0), prompt, 1.0)


@pytest.mark.parametrize(
    ("users", "seconds", "late"), [(1, 0.0, 0.0), (1, 0.004, 4.0), (1, 0.02, 20.0), (9, 0.001, 9.0)]
)
def test_users_who_ask_late_are_the_generators_lateness(
    users: int, seconds: float, late: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert closed_loop(users, seconds, monkeypatch).generator["late_ms_p99"] == pytest.approx(late)


@pytest.mark.parametrize(("seconds", "why"), [(0.01, "the generator was the limit"), (0.001, "")])
def test_a_closed_loop_that_asks_late_does_not_count(seconds: float, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not_counted(figures(closed_loop(2, seconds, monkeypatch), Limits())) == why
