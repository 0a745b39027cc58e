"""`moesaic bench all`: a run that is cut off keeps what it measured, says that it is partial, and is gone on with."""

import json
import shutil
from pathlib import Path

import pytest

from moesaic.bench.evidence.own import write_own
from moesaic.bench.report import BenchPlan, notes, run_bench

SCORED, ROUNDS = "documents scored by", "rounds of tokens per second"


class Cut(Exception):
    pass


def run(out: Path, cut_at: str = "never") -> list[str]:
    """What the run said that it did, until it was cut off."""
    plan = BenchPlan("stories260k", out, ("retention", "engine"), documents=1, truncate=8, quick=True, threads=1)
    said: list[str] = []

    def progress(what: str, done: int, total: int) -> None:
        said.append(what)
        if what == cut_at:
            raise Cut

    try:
        run_bench(plan, progress)
    except Cut:
        said.append("cut")
    return said


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without peers that was cut off in its second suite, at the first round."""
    out = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moesaic.bench.report.find_spec", lambda name: None)
        assert run(out, ROUNDS)[-2:] == [ROUNDS, "cut"]
    return out


def test_a_partial_report_says_so_and_so_does_its_page(cut_off: Path) -> None:
    report = json.loads((cut_off / "report.json").read_text())
    told = "the report is not complete, it was cut off after retention: the same command goes on with it"
    assert report["complete"] is False and notes(report)[0] == told
    write_own([cut_off / "report.json"], cut_off / "report.html")
    assert told in (cut_off / "report.html").read_text()


def test_what_was_measured_is_not_measured_again(
    cut_off: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moesaic.bench.report.find_spec", lambda name: None)
    shutil.copytree(cut_off, tmp_path / "bench")
    file = tmp_path / "bench/report.json"
    before, said = json.loads(file.read_text()), run(file.parent)
    after = json.loads(file.read_text())
    assert "joules_per_token" in after["engine"]["speed"]["moesaic int8"]["8"]
    assert ROUNDS in said and not any(what.startswith(SCORED) for what in said)
    assert after == before | {"complete": True, "engine": after["engine"]}
    assert not any("not complete" in line for line in notes(after))


@pytest.mark.parametrize(("joules", "said"), [(0.25, "0.25 J a token"), (None, "not measured: nobody counts")])
def test_joules_a_token_are_told_or_why_there_are_none(cut_off: Path, joules: float | None, said: str) -> None:
    figures = {"joules_per_token": joules, "energy": "not measured: nobody counts", "tokens_per_second": 1.0}
    report = json.loads((cut_off / "report.json").read_text())
    report["engine"] = {"threads": 1, "new_tokens": 1, "speed": {"moesaic int8": {"1": figures, "8": figures}}}
    assert [line for line in notes(report) if line.startswith("energy") and said in line]
