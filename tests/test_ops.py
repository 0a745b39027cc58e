"""Every operation has a benchmark beside a peer; runs of it are told apart by their figures alone."""

import ast
import json
import math
import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from house import ROOT

from moesaic.bench import rounds
from moesaic.bench.compare import compared
from moesaic.bench.compare import told as told_of_both
from moesaic.bench.ops.planted import LEAST, SLOWER, SOUND, plant
from moesaic.bench.ops.point import NO_GPU, measured
from moesaic.bench.ops.run import OpsPlan, notes, ratio_of_sittings, rows, run_ops, told
from moesaic.bench.ops.sitting import operations, points_of
from moesaic.cli.main import main
from moesaic.kernels import native
from moesaic.kernels.native_program import KINDS
from moesaic.models.errors import SetupError

KERNELS = {str(file.relative_to(ROOT / "kernels").with_suffix("")): file for file in (ROOT / "kernels").rglob("*.py")}
QUIET = {"device": "a processor", "processors": 2, "versions": {}, "commit": None}


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def launches(tree: ast.AST) -> bool:
    """Whether a module starts a kernel of Triton, or calls one of the C++."""
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    triton = any(isinstance(each, ast.Subscript) and ast.unparse(each.value).endswith("_kernel") for each in calls)
    return triton or any(isinstance(each, ast.Attribute) and each.attr.startswith("moesaic_") for each in calls)


def has_reference(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name.endswith("_torch") for node in tree.body)


def imported(name: str) -> set[str]:
    """Modules of kernels/ that one of them imports."""
    found = set()
    for node in tree_of(KERNELS[name]).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            path = "/".join([*name.split("/")[: -node.level], *(node.module or "").split(".")])
            found |= {path, *(f"{path}/{alias.name}" for alias in node.names)}
    return found & KERNELS.keys()


def reached(names: set[str]) -> set[str]:
    found, todo = set(names), list(names)
    while todo:
        more = imported(todo.pop()) - found
        found |= more
        todo += more
    return found


def without_benchmark() -> list[str]:
    """Modules that compute and are neither measured by a file of their stem nor parts of one that is.

    A module with a reference in plain torch is an operation: it is nobody's part.
    """
    own = {name for name in KERNELS if name.split("/")[-1] in operations()}
    parts, trees = reached(own), {name: tree_of(file) for name, file in KERNELS.items()}
    return [
        name for name, tree in trees.items()
        if (has_reference(tree) and name not in own) or (launches(tree) and name not in parts)
    ]  # fmt: skip


def test_every_operation_has_a_benchmark() -> None:
    assert without_benchmark() == []


def test_an_operation_that_nobody_measures_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "new.py").write_text("def new_torch(x): ...\n")
    (tmp_path / "bare.py").write_text("_bare_kernel[1](x)\n")
    monkeypatch.setitem(KERNELS, "new", tmp_path / "new.py")
    monkeypatch.setitem(KERNELS, "bare", tmp_path / "bare.py")
    assert without_benchmark() == ["new", "bare"]


def test_every_benchmark_is_of_something_that_is_there() -> None:
    stems = {name.split("/")[-1] for name in KERNELS} | {file.stem for file in (ROOT / "engine").glob("*.py")}
    assert {*operations()} <= stems


def test_every_kind_of_instruction_is_measured() -> None:
    from moesaic.bench.benchmark_native_program import ELSEWHERE

    named = {word for point in points_of("native_program", quick=True) for word in point.name.replace(",", "").split()}
    assert {*KINDS} <= named | {*ELSEWHERE} and {*ELSEWHERE.values()} <= {*operations()}


@pytest.mark.parametrize("name", [*operations()])
def test_an_operation_is_measured_beside_a_peer_or_says_why_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "ROTATED_BYTES", 1)
    point = next(points_of(name, quick=True))
    found = measured(point, seconds=0.0)
    assert found["ratios"] or found["skipped"][point.ours] == NO_GPU
    assert found["bytes"] > 0 and all(ratio > 0 for ratio in found["ratios"].values())


@pytest.mark.parametrize("name", [*operations()])
def test_points_have_names_of_their_own_and_quick_ones_are_among_them(name: str) -> None:
    every, few = ([point.name for point in points_of(name, quick)] for quick in (False, True))
    assert len({*every}) == len(every) and {*few} <= {*every}


def sitting(draw: random.Random, slower: float = 1.0, spread: float = 0.02) -> list[dict[str, Any]]:
    """Rows as a process tells them."""
    return [
        {
            "op": "linear", "point": f"shape {i}", "ours": "ours", "bytes": 1, "flops": 2, "limit_microseconds": 1.0,
            "microseconds": {"ours": 2.0, "torch": 1.0}, "skipped": {"other": "is not installed"},
            "ratios": {"torch": slower * draw.lognormvariate(0, spread)},
        }
        for i in range(20)
    ]  # fmt: skip


def report(seed: int, slower: float = 1.0) -> dict[str, Any]:
    draw = random.Random(seed)
    return {"kind": "ops", "complete": True, "sittings": [], "ops": told([sitting(draw, slower) for _ in range(5)])}


def signs(before: dict[str, Any], after: dict[str, Any]) -> set[bool]:
    return {change.worse for change in compared(before, after, 0.03) if change.sign}


def test_two_runs_whose_sittings_differ_compare_as_equal() -> None:
    assert sum(bool(signs(report(2 * i), report(2 * i + 1))) for i in range(20)) <= 2


def test_a_tenth_more_work_is_found() -> None:
    assert signs(report(0), report(1, slower=1.1)) == {True} and signs(report(1, slower=1.1), report(0)) == {False}


def test_the_interval_is_students_of_the_logarithms() -> None:
    found = ratio_of_sittings([1.0, 4.0])
    assert found.value == pytest.approx(2.0) and math.log(found.high / 2) == pytest.approx(12.706 * math.log(2))


def test_the_planted_loop_does_a_tenth_of_its_rows_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (plant(tmp_path) / "linear.cpp").read_text()
    assert SLOWER in text and text.replace(SLOWER, SOUND) == (native.SOURCES / "linear.cpp").read_text()
    monkeypatch.setattr(native, "SOURCES", tmp_path / "cpp")
    with pytest.raises(SetupError, match="has no loop"):
        plant(tmp_path / "once more")


def test_what_was_planted_is_told_by_name() -> None:
    found = told_of_both(compared(report(0), report(1, slower=1.1), LEAST))
    assert found["figures"] == 20 and "ops linear points shape 3 beside torch" in found["worse"] and not found["better"]


def fake_sitting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> OpsPlan:
    (tmp_path / "fake_sitting.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return OpsPlan(tmp_path / "ops.json", 2, command="as typed", module="fake_sitting")


def test_a_run_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps(each) for each in ({"points": 20}, *sitting(random.Random(0)))]
    marks = f"open({str(tmp_path / 'count')!r}, 'a').write('x')"
    asked = fake_sitting(tmp_path, monkeypatch, f"{marks}\nprint({chr(10).join(lines)!r})")
    report = run_ops(asked, lambda: QUIET, lambda *said: None)
    report["sittings"].pop()
    asked.out.write_text(json.dumps({**report, "complete": False}))
    again = run_ops(asked, lambda: QUIET, lambda *said: None)
    assert again["complete"] and len(again["sittings"]) == 2 and (tmp_path / "count").read_text() == "xxx"
    assert again["command"] == "as typed" and len(rows(again)[1]) == 20
    assert any("other: is not installed" in line for line in notes(again))


def test_a_sitting_that_fails_is_told_and_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_sitting(tmp_path, monkeypatch, "raise SystemExit('memory is full')")
    with pytest.raises(SetupError, match="sitting 1 ended with status 1: memory is full"):
        run_ops(asked, lambda: QUIET, lambda *said: None)
    assert not asked.out.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "int8_liner"], "did you mean 'int8_linear'"), (["--sittings", "1"], "sittings"),
        (["--against", "pyproject.toml"], "is no report with figures"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_runs(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["bench", "ops", *words, "--out", str(tmp_path / "x.json")]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "x.json").exists()
