"""Results hold the command that made them, and what a command gives again is compared."""

import copy
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from house import ROOT
from test_document_commands import taken

from moesaic.bench import again
from moesaic.bench.again import QUICK, Quick, chosen, differences, made_again, main
from moesaic.bench.published.figures import RESULTS

FILES = {str(file.relative_to(RESULTS).with_suffix("")): file for file in sorted(RESULTS.rglob("*.json"))}
# Parts of a model in the form of Hugging Face, and curves of its training, which its card tells of.
OF_A_MODEL = {name for name in FILES if name.startswith("reference/") and not name.endswith("/card")}
REPORT: dict[str, Any] = {
    "command": "python x", "machine": {"device": "a"}, "tokens": 12, "seconds": 1.5, "what": ["a", "b"],
    "figures": [{"name": "full", "perplexity": 20.0, "num_correct": 300, "ttft_ms_p50": 3.0}],
}  # fmt: skip


def command_of(file: Path) -> str:
    found = json.loads(file.read_text()).get("command")
    return found if isinstance(found, str) else ""


def test_every_result_holds_the_command_that_made_it() -> None:
    lacking = [name for name, file in FILES.items() if name not in OF_A_MODEL and not command_of(file)]
    assert lacking == []


def test_commands_are_ours_and_name_no_folder_of_a_person() -> None:
    commands = [command_of(file) for name, file in FILES.items() if name not in OF_A_MODEL]
    assert [each for each in commands if not each.startswith(("moesaic ", "python -m moesaic."))] == []
    assert [each for each in commands if " /" in each or "~" in each] == []


def test_commands_of_the_command_line_are_still_taken() -> None:
    commands = [command_of(file) for name, file in FILES.items() if name not in OF_A_MODEL]
    words = [shlex.split(each)[1:] for each in commands if each.startswith("moesaic ")]
    assert [said for each in words if (said := taken(each))] == []


@pytest.mark.parametrize("quick", QUICK, ids=lambda quick: quick.name)
def test_a_quick_result_says_where_it_goes_and_a_module_is_there(quick: Quick) -> None:
    words = shlex.split(command_of(quick.file))
    assert words.count(quick.out) == 1
    if words[0] == "python":
        assert (ROOT / "/".join(words[2].split(".")[1:])).with_suffix(".py").exists()


def test_every_quick_result_has_its_day() -> None:
    assert {chosen(day) for day in range(len(QUICK))} == {*QUICK}


def changed(**values: Any) -> list[str]:
    after = copy.deepcopy(REPORT)
    after["figures"][0].update({key: value for key, value in values.items() if key in after["figures"][0]})
    after.update({key: value for key, value in values.items() if key not in after["figures"][0]})
    return list(differences(REPORT, after, 1e-2))


def test_what_a_machine_decides_may_differ() -> None:
    assert changed(seconds=9.0, machine={"device": "b"}, command="python y", ttft_ms_p50=30.0) == []


def test_what_it_does_not_decide_may_not() -> None:
    assert changed(tokens=13) == ["tokens was 12 and is 13"]
    assert changed(perplexity=20.1, num_correct=301) == [] and changed(perplexity=20.5, num_correct=310) == [
        "figures[0].perplexity was 20.0 and is 20.5", "figures[0].num_correct was 300 and is 310",
    ]  # fmt: skip
    assert changed(what=["a"]) == ["what had 2 entries and has 1"] and changed(more=1) == ["more is new"]
    assert list(differences(REPORT, {key: REPORT[key] for key in REPORT if key != "seconds"}, 0)) == ["seconds is gone"]


def test_a_result_is_made_again_by_its_command(tmp_path: Path) -> None:
    quick = QUICK[0]
    before, after = json.loads(quick.file.read_text()), made_again(quick, tmp_path)
    assert list(differences(before, after, quick.within)) == [] and after["command"] == before["command"]


def test_a_planted_difference_ends_with_a_sentence_and_a_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = json.loads(QUICK[0].file.read_text())
    values["context"] += 1
    (tmp_path / f"{QUICK[0].name}.json").parent.mkdir()
    (tmp_path / f"{QUICK[0].name}.json").write_text(json.dumps(values))
    monkeypatch.setattr(again, "made_again", lambda quick, folder: {**values, "context": values["context"] - 1})
    monkeypatch.setattr(again, "RESULTS", tmp_path)
    assert main([QUICK[0].name]) == 1
    assert "context was 129 and is 128" in capsys.readouterr().out


def test_a_command_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(quick: Quick, folder: Path) -> Any:
        raise subprocess.CalledProcessError(2, "python")

    monkeypatch.setattr(again, "made_again", fails)
    assert main([QUICK[0].name]) == 1 and "makes it no more" in capsys.readouterr().out
