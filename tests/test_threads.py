"""How many threads a step has, by how busy the machine is: all clocks here are numbers."""

from pathlib import Path

import pytest

from moesaic.engine.threads import ThreadGovernor, is_crowded


class Machine:
    """A fake one: a step takes a tenth of a second, of which the thread is kept off its processor for a part."""

    def __init__(self, most: int = 4, crowded: bool = False) -> None:
        self.wall = self.own = 0.0
        self.crowded, self.counts = crowded, list[int]()
        self.governor = ThreadGovernor(
            most, self.counts.append, lambda _: self.crowded, lambda: self.wall, lambda: self.own
        )

    def steps(self, number: int, away: float = 0.0) -> int:
        for _ in range(number):
            with self.governor.step():
                self.wall += 0.1
                self.own += 0.1 * (1 - away)
        return self.counts[-1]


def test_a_quiet_machine_keeps_all_threads() -> None:
    machine = Machine()
    assert machine.steps(100, away=0.02) == 4 and machine.counts == [4]


def test_threads_are_halved_while_they_are_kept_off_and_come_back_when_it_is_calm() -> None:
    machine = Machine()
    assert [machine.steps(1, away=0.5) for _ in range(3)] == [2, 1, 1]
    assert machine.steps(50) == 4 and machine.counts == [4, 2, 1, 2, 4]


def test_a_machine_that_is_crowded_at_the_start_gets_one_thread_at_once() -> None:
    machine = Machine(crowded=True)
    assert machine.counts == [1] and machine.steps(50) == 1
    machine.crowded = False
    assert machine.steps(50) == 4


def test_tries_that_fail_become_rare() -> None:
    machine = Machine(most=2)
    for _ in range(600):  # one minute on which one thread is left alone, and two are not
        machine.steps(1, away=0.5 if machine.counts[-1] == 2 else 0.0)
    assert 2 < machine.counts.count(2) < 9


def test_one_late_step_in_a_calm_minute_costs_a_second_at_most() -> None:
    machine = Machine(most=2)
    machine.steps(300)
    machine.steps(1, away=0.5)
    assert machine.counts[-1] == 1 and machine.steps(10) == 2


@pytest.mark.parametrize(
    ("running", "ours", "threads", "crowded"),
    [
        (1, "R", 2, False),
        (2, "R", 2, True),
        (3, "R", 2, True),
        (3, "R", 1, True),
        (3, "RR", 1, False),
        (2, "RSR", 2, False),
    ],
)
def test_what_others_run_is_counted(running: int, ours: str, threads: int, crowded: bool, tmp_path: Path) -> None:
    file = tmp_path / "loadavg"
    file.write_text(f"0.20 0.18 0.12 {running}/80 11206\n")
    for number, state in enumerate(ours):
        (tmp_path / f"task/{number}").mkdir(parents=True)
        (tmp_path / f"task/{number}/stat").write_text(f"{number} (a (b) c) {state} 1 2 3\n")
    assert is_crowded(threads, 2, file, tmp_path / "task") is crowded


@pytest.mark.parametrize("text", [None, "", "0.2 0.1 0.1", "a b c d/e f"])
def test_where_nothing_is_said_nothing_is_crowded(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "loadavg"
    if text is not None:
        file.write_text(text)
    assert not is_crowded(2, 2, file, tmp_path)
