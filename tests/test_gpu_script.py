"""The driver of bench/gpu.sh: whatever a section does, what it found is kept, the others run, and the files are few."""

import fcntl
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import PATIENCE_SECONDS, alive, eventually, written

from moesaic.bench.clock import seconds_of
from moesaic.bench.gpu.children import each_in_a_process
from moesaic.bench.gpu.contest import points_of
from moesaic.bench.gpu.end_to_end import forward
from moesaic.bench.gpu.expert_backends import experts_of_transformers
from moesaic.bench.gpu.operands import FFNWeights
from moesaic.bench.gpu.peers import CONTESTANTS
from moesaic.bench.gpu.random_models import KINDS, LOW, random_model
from moesaic.bench.gpu.rows import Rows, figures
from moesaic.bench.gpu.run import MAX_FILES, SECONDS, SECTIONS, Section, run_sections
from moesaic.bench.gpu.section import Plan
from moesaic.bench.gpu.sizes import GPU, Width
from moesaic.bench.gpu.summary import summary
from moesaic.engine.lockstep import Lockstep
from moesaic.engine.runner import ModelRunner
from moesaic.models.errors import SetupError

SCRIPT = Path(__file__).resolve().parents[1] / "bench" / "gpu.sh"
ADD = "import sys; file = sys.argv[sys.argv.index('--rows') + 1]; print('to the log'); "
ROW = 'open(file, \'a\').write(\'{"what": "figure", "value": 1}\\n\'); '


SHORT, LONG = 1.0, 10 * PATIENCE_SECONDS  # limits: one that is to be overrun, and one that never is
SLEEP = f"import time; time.sleep({LONG})"


def section(name: str, code: str, seconds: float = LONG) -> Section:
    return Section(name, seconds, (sys.executable, "-c", ADD + code))


def ran(out: Path, *sections: Section, seconds: float = 9 * LONG) -> dict[str, Any]:
    """Reports by section, and under "" whether all was well."""
    sound = run_sections(sections, out, seconds, dry=True)
    reports = [json.loads(file.read_text()) for file in sorted(out.glob("*.json"))]
    return {"": sound} | {report["section"]: report for report in reports}


@pytest.fixture
def short_is_until(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], bool]], None]:
    """A limit of SHORT is over as soon as something holds, however slow the machine is."""
    wait = subprocess.Popen.wait

    def limit(holds: Callable[[], bool]) -> None:
        def until(process: "subprocess.Popen[bytes]", timeout: float | None = None) -> int:
            if timeout is None or timeout > SHORT:
                return wait(process, timeout)
            eventually(holds)
            raise subprocess.TimeoutExpired(process.args, timeout)

        monkeypatch.setattr(subprocess.Popen, "wait", until)

    return limit


def test_a_section_that_ends_well_leaves_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = ran(tmp_path, section("good", ROW + ROW))
    assert found[""] and found["good"]["state"] == "done" and len(found["good"]["rows"]) == 2
    assert "1 good: done" in capsys.readouterr().out and "to the log" in (tmp_path / "log.txt").read_text()


def test_a_section_that_fails_keeps_its_rows_and_the_end_of_its_log_and_the_others_run(tmp_path: Path) -> None:
    found = ran(tmp_path, section("bad", ROW + "raise SystemExit('the reason')"), section("good", ROW))
    assert not found[""] and found["bad"]["state"] == "failed" and found["good"]["state"] == "done"
    assert len(found["bad"]["rows"]) == 1 and "the reason" in found["bad"]["log_tail"]


def test_a_section_that_overruns_is_ended_with_all_its_processes_and_keeps_its_rows(
    tmp_path: Path, short_is_until: Callable[[Callable[[], bool]], None]
) -> None:
    child = tmp_path / "child"
    tell = f"import os; open({str(child)!r}, 'w').write(str(os.getpid())); {SLEEP}"
    hangs = ROW + f"import subprocess; subprocess.Popen([sys.executable, '-c', {tell!r}]); {SLEEP}"
    short_is_until(lambda: bool(written(child)))
    found = ran(tmp_path / "out", section("hangs", hangs, SHORT), section("good", ROW))
    assert "ended by its limit" in found["hangs"]["state"] and len(found["hangs"]["rows"]) == 1
    assert found["good"]["state"] == "done"
    eventually(lambda: not alive(int(written(child))))


def test_a_second_run_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(SetupError, match="another run writes into .*; wait for it, or name another folder"):
        ran(tmp_path, section("good", ROW))
    os.close(held)
    assert ran(tmp_path, section("good", ROW))[""]


SECTION_THAT_SLEEPS = """
import sys
from moesaic.bench.gpu import run
code = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(600)"
run.SECTIONS = (run.Section("slow", 500.0, (sys.executable, "-c", code, *sys.argv[2:])),)
sys.exit(run.main(sys.argv[1:2]))
"""
FAKE_PYTHON = """#!/bin/sh
case "$*" in *pip*) exit 0 ;; esac
sleep 600 & nap=$!
trap 'test -d "$PWD/moesaic" && touch {mark}; kill $nap; exit 143' TERM
echo "$PWD" > {begun}
wait
"""


def ended(command: list[str], begun: Path, **environment: str) -> int:
    """The status of a command that is told to end once a file is written."""
    process = subprocess.Popen(command, env={**os.environ, **environment})
    written(begun)
    process.terminate()
    return process.wait(PATIENCE_SECONDS)


def test_a_driver_that_is_ended_ends_its_section(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    assert ended([sys.executable, "-c", SECTION_THAT_SLEEPS, str(tmp_path / "out"), str(begun)], begun) == 143
    eventually(lambda: not alive(int(written(begun))))


def test_a_script_that_is_ended_ends_its_driver_before_its_package_goes(tmp_path: Path) -> None:
    begun, mark, fake = tmp_path / "begun", tmp_path / "mark", tmp_path / "python"
    fake.write_text(FAKE_PYTHON.format(begun=begun, mark=mark))
    fake.chmod(0o755)
    assert ended(["bash", str(SCRIPT), str(tmp_path / "out")], begun, PYTHON=str(fake)) == 143
    assert mark.exists() and not Path(begun.read_text().strip()).exists()


def test_a_python_that_is_not_there_is_named(tmp_path: Path) -> None:
    command = ["bash", str(SCRIPT), str(tmp_path / "out")]
    done = subprocess.run(command, env={**os.environ, "PYTHON": "no-such-python"}, capture_output=True, text=True)
    assert done.returncode == 2 and "there is no no-such-python here; name one in PYTHON" in done.stderr


def test_a_section_that_could_not_begin_gives_its_last_words_in_the_summary(tmp_path: Path) -> None:
    ran(tmp_path, section("bad", "import no_such_package"))
    assert "No module named 'no_such_package'" in (tmp_path / "summary.txt").read_text()


def test_a_row_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    found = ran(tmp_path, section("cut", ROW + "open(file, 'a').write('{\"what\": \"hal')"))
    assert found["cut"]["rows"] == [{"what": "figure", "value": 1}]


def test_a_section_without_a_figure_failed_whatever_its_status(tmp_path: Path) -> None:
    skips = 'open(file, \'a\').write(\'{"what": "x", "skipped": "it is not here"}\\n\')'
    found = ran(tmp_path, section("silent", "pass"), section("skips", skips))
    assert [found[name]["state"] for name in ("silent", "skips")] == ["failed: it left no figure"] * 2
    assert not found[""]


def test_what_is_left_of_the_time_is_shared_and_no_section_begins_without_any(tmp_path: Path) -> None:
    found = ran(tmp_path, section("slow", SLEEP), section("late", ROW), seconds=0.2)
    assert "ended by its limit" in found["slow"]["state"] and found["slow"]["limit_seconds"] <= 0.2
    assert found["late"]["state"].startswith("not begun") and not found[""]


def test_there_are_at_most_8_files_and_those_of_a_run_before_are_replaced(tmp_path: Path) -> None:
    eight = [section(f"n{i}", ROW) for i in range(MAX_FILES - 2)]
    for _ in range(2):
        ran(tmp_path, *eight)
        assert len(os.listdir(tmp_path)) == MAX_FILES
    ran(tmp_path, eight[0])
    assert sorted(os.listdir(tmp_path)) == ["1-n0.json", "log.txt", "summary.txt"]
    assert (tmp_path / "log.txt").read_text().count("====") == 1
    with pytest.raises(ValueError, match="more than 8 files"):
        ran(tmp_path, *eight, section("more", ROW))


def test_the_sections_fit_the_time_and_the_files() -> None:
    assert sum(each.seconds for each in SECTIONS) <= SECONDS == 540 and len(SECTIONS) + 2 <= MAX_FILES


# --- contestants ----------------------------------------------------------------------------------------------------

CONTESTANT = """
import os, sys
from moesaic.bench.gpu.section import run_section
def measure(plan):
    plan.rows.add(contestant=plan.name, value=1)
    if plan.name == "crashes": os.abort()
    if plan.name == "raises": raise RuntimeError("no such kernel")
    if plan.name == "hangs":
        import time; time.sleep(600)
if __name__ == "__main__": sys.exit(run_section(measure))
"""


def test_a_contestant_that_crashes_hangs_or_raises_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_is_until: Callable[[Callable[[], bool]], None]
) -> None:
    (tmp_path / "toy_contest.py").write_text(CONTESTANT)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    rows = Rows(tmp_path / "rows.jsonl")
    limits = {"crashes": LONG, "raises": LONG, "hangs": SHORT, "good": LONG}
    short_is_until(lambda: rows.file.exists() and "hangs" in rows.file.read_text())
    each_in_a_process(Plan(rows, math.inf, dry=True), "toy_contest", limits)
    assert [row["contestant"] for row in figures(list(rows))] == list(limits)
    bad = {row["contestant"]: row["failed"] for row in rows if "failed" in row}
    assert bad["crashes"] == "ended with status -6" and bad["raises"] == "RuntimeError: no such kernel"
    assert bad["hangs"].startswith("did not end in") and len(bad) == 3


@pytest.mark.parametrize("backend", ["batched_mm", "grouped_mm"])
@pytest.mark.parametrize("gated", [False, True])
def test_expert_backends_of_transformers_compute_what_ours_do(backend: str, gated: bool) -> None:
    pytest.importorskip("transformers.integrations.moe")
    width = Width(16, 64, 16, gated)
    weights, x = FFNWeights.random(width, "cpu"), torch.randn(3, 16).bfloat16()
    active = torch.tensor([[True, False, True, False], [False, True, True, False], [True, True, False, False]])
    found, exact = experts_of_transformers(backend)(weights, width)(x, active), weights.exact(x, active)
    assert (found.double() - exact).norm() < 0.03 * exact.norm()


def test_a_backend_that_is_not_there_is_an_import_error() -> None:
    pytest.importorskip("transformers.integrations.moe")
    with pytest.raises(ImportError, match="this transformers has no expert backend none_mm"):
        experts_of_transformers("none_mm")(FFNWeights.random(Width(16, 64, 16, True), "cpu"), Width(16, 64, 16, True))


def test_contestants_that_come_too_late_say_so(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl")
    each_in_a_process(Plan(rows, 0.0, dry=True), "none", {"first": 1.0, "second": 1.0})
    assert [row["skipped"] for row in rows] == ["the section's time was over"] * 2


def test_a_ratio_is_of_a_contestant_that_comes_before_and_names_are_unique() -> None:
    names = [each.name for each in CONTESTANTS]
    assert len(set(names)) == len(names)
    assert all(names.index(each.baseline) <= names.index(each.name) for each in CONTESTANTS)


def test_every_width_share_and_number_of_tokens_has_one_point_and_the_telling_ones_come_first() -> None:
    ours = next(each for each in CONTESTANTS if each.name == "expert_ffn bf16")
    points = list(points_of(GPU, ours))
    assert len(set(points)) == len(points) == len(GPU.widths) * len(GPU.tokens) * len(GPU.shares)
    assert {point.tokens for point in points[: 4 * len(GPU.widths)]} == {1, 8, 64, 2048}


# --- what a graph holds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tiers", [(0, 0), (LOW, LOW), (0, LOW)], ids=str)
def test_a_step_waits_for_no_device_and_copies_nothing_from_the_host(
    kind: str, tiers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is on meta tensors, which hold no numbers, so that whoever asks for one fails."""
    model = random_model("toy", kind, "meta", torch.bfloat16)
    rows = Lockstep(ModelRunner(model, Lockstep.blocks(256, 2), 256, torch.bfloat16), 2, 256)
    step = forward(rows, tiers if model.spec.num_tiers > 1 else (0, 0))

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("numbers of the host")

    for name in ("tensor", "as_tensor", "from_numpy"):
        monkeypatch.setattr(torch, name, refused)
    with torch.no_grad():
        assert step().shape == (2, model.spec.vocab_size)


def test_a_gpu_is_timed_by_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.name = "begin" if not told else "end"
            told.append(f"made {self.name}")

        def record(self) -> None:
            told.append(f"record {self.name}")

        def synchronize(self) -> None:
            told.append(f"wait for {self.name}")

        def elapsed_time(self, end: "Event") -> float:
            return 2.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert seconds_of(lambda: told.append("call")) == 0.002
    assert told[2:] == ["record begin", "call", "record end", "wait for end"]


def test_the_summary_shows_what_failed_and_stays_short() -> None:
    rows = [{"contestant": f"c{i}", "failed": "x" * 5000} for i in range(500)]
    shown = summary([{"section": "kernels", "state": "failed", "seconds": 1.0, "rows": rows}] * 6)
    assert "c0: xxx" in shown and "more" in shown and len(shown) < 11_000
