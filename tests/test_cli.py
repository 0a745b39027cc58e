"""The commands as they are typed: what they print, and that a mistake is one line and status 2."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from builders import llama
from patience import PATIENCE_SECONDS

from moesaic.cli.main import SUBCOMMANDS, build_parser, main
from moesaic.cli.parser import commands_of
from moesaic.models.setting import byte_count

OPENING = "Once upon a time, there was a little girl named Lily."
NAMES = {"evaluate": "eval", "import_gguf": "import"}
MODULES = [module.__name__.rpartition(".")[2] for module in SUBCOMMANDS]
COMMANDS = [NAMES.get(name, name) for name in MODULES]
BELOW = [f"{name} {word}" for name, each in commands_of(build_parser()).items() for word in commands_of(each)]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    llama(tmp_path / "model", num_hidden_layers=1)
    return tmp_path / "model"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0 and f"usage: moesaic {command}" in capsys.readouterr().out


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"\n    {command}" in shown for command in COMMANDS)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    import moesaic

    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"moesaic {moesaic.__version__}\n"


@pytest.mark.parametrize("arguments", [["runn"], ["run"], ["run", "x"], ["bench", "everything"], ["recipes"]])
def test_a_command_that_does_not_exist_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2 and "usage: moesaic" in capsys.readouterr().err


# --- real runs -----------------------------------------------------------------------------------------------------


def test_run_continues_a_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "stories260k", "", "--max-new-tokens", "60"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(OPENING) and shown.out.endswith("\n")
    assert "llama, 0.26M parameters" in shown.err and "1 prompt + 60 new tokens, ended by length" in shown.err


def test_run_stops_before_a_stop_string(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "stories260k", "", "--stop", " girl", "--stop", "zebra"]) == 0
    assert capsys.readouterr().out == "Once upon a time, there was a little\n"


def test_run_with_a_seed_repeats_itself(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for _ in range(2):
        main(["run", "stories260k", "Tom", "--temperature", "1", "--top-p", "0.9", "--seed", "5"])
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


def test_eval_prints_and_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("Once upon a time.\n<|endoftext|>\nTom ran.")
    file = tmp_path / "score.json"
    assert main(["eval", "stories260k", "--text", str(tmp_path / "a.txt"), "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert figures["documents"] == len(figures["per_document"]) == 2
    assert f"perplexity {figures['perplexity']:.4f}" in capsys.readouterr().out


def test_eval_compares_a_model_with_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "stories260k", "--against", "stories260k", "--documents", "1", "--truncate", "50"]) == 0
    shown = capsys.readouterr().out
    assert "KL from stories260k: 0.000000" in shown and "agreement with stories260k: 100.00%" in shown


def test_inspect_shows_what_a_directory_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "stories260k"]) == 0
    shown = capsys.readouterr().out
    assert "llama: 5 layers, hidden 64, vocabulary 512" in shown and "1,040,128 bytes of weights" in shown


def test_inspect_gives_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "stories260k", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["weight_bytes"] == 1_040_128 and len(shown["spec"]["layers"]) == 5 and shown["stages"] == []


def test_compress_then_inspect_then_run(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    recipe = tmp_path / "quick.yaml"
    recipe.write_text("stages: [{quantize: {linears: int8}}]\nevaluation: {documents: 1, truncate: 16}\n")
    assert main(["compress", str(model), out, "--recipe", str(recipe)]) == 0
    assert "result" in capsys.readouterr().out
    assert main(["compress", str(model), out, "--recipe", str(recipe)]) == 0
    assert "is already the result of this recipe on this model" in capsys.readouterr().out
    assert main(["inspect", out]) == 0 and main(["run", out, "abc", "--max-new-tokens", "4"]) == 0
    assert "quantize  embeddings  true" in capsys.readouterr().out


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "stories260k", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "1,040,128 -> 276,192 bytes of weights (0.266x); nothing written" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "list"]) == 0 and "int8" in capsys.readouterr().out
    assert main(["recipes", "show", "int8"]) == 0 and "quantize: {linears: int8}" in capsys.readouterr().out


def test_tune_says_that_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["tune"]) == 2
    assert (
        "tune measures a GPU, and torch finds none on this machine; run it where there is one"
        in capsys.readouterr().err
    )


def test_a_plan_foretells_a_token_on_a_gpu_that_is_named(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", str(model), "out", "--dry-run", "--predict", "H200"]) == 0
    shown = capsys.readouterr().out
    assert "tokens/s" in shown and "H200, by constants that are of its data sheet, not measured" in shown


@pytest.mark.parametrize(
    ("more", "told"),
    [(["--predict", "H200"], "add --dry-run"), (["--dry-run", "--predict", "T4"], "known of H100, H200")],
)
def test_a_gpu_that_nothing_is_foretold_of_is_refused(
    more: list[str], told: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compress", str(model), "out", *more]) == 2
    assert told in capsys.readouterr().err


def test_doctor_says_what_this_machine_offers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "torch" in shown and "models at hand: " in shown and "stories260k" in shown
    assert "keys and values of a model on the CPU may take" in shown


# --- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("run nowhere hi", "there is no model directory 'nowhere'"),
        ("run ~nobody-of-this-name/x hi", "cannot be opened"),
        ("run stories260k hi --max-new-tokens 0", "it must be at least 1"),
        ("run stories260k hi --max-new-tokens 9999", "the context holds 512"),
        ("run stories260k hi --temperature nan --top-p 7 --top-k -1", "sampling.top_p: is 7.0"),
        ("run stories260k hi --tier turbo", "tier 'turbo' is not among"),
        ("run stories260k hi --device abacus", "try --device cpu"),
        ("run stories260k hi --device meta", "try --device cpu"),
        ("run stories260k hi --threads 0", "threads is 0"),
        ("run stories260k hi --kv-memory 1K", "raise kv_memory"),
        ("eval stories260k --text nope.txt", "there is no text file 'nope.txt'"),
        ("eval stories260k --documents 0", "documents is 0"),
        ("eval stories260k --documents 1 --json nope/dir/a.json", "nope/dir"),
        ("compress stories260k out --recipe nope", "there is no recipe 'nope'"),
        ("compress stories260k .", "remove it or name another directory"),
        ("compress nowhere out", "there is no model directory"),
        ("inspect org/model", "moesaic models get hf:org/model"),
        ("recipes show int9", "did you mean 'int8'?"),
        ("generate hi --address localhost:1", "localhost:1"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    command: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert main(command.split()) == 2
    shown = capsys.readouterr()
    mistakes = [line for line in shown.err.splitlines() if line.startswith("moesaic: error: ")]
    assert len(mistakes) == 1 and sentence in mistakes[0] and "Traceback" not in shown.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["0", "-1", "x", "1X", "nan", "inf", "1e999G", "", "G"])
def test_bytes_are_written_as_a_number_and_a_letter(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "stories260k", "hi", f"--kv-memory={text}"])
    assert "is not a number of bytes such as 500M or 2G" in capsys.readouterr().err
    assert (byte_count("1500"), byte_count("1.5k"), byte_count("2G")) == (1500, 1536, 2 << 30)


def test_a_prompt_that_is_not_utf8_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "stories260k", os.fsdecode(b"\xff")]) == 2
    assert "moesaic: error: prompt: is '\\udcff'; it must be text in Unicode" in capsys.readouterr().err


def test_text_that_standard_output_cannot_hold_is_replaced(model: Path) -> None:
    folder = model.rename(model.parent / "日本")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "moesaic.cli.main", "inspect", str(folder)]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0 and b"/??\n" in done.stdout


def test_output_that_nobody_reads_is_no_crash() -> None:
    command = f"{sys.executable} -m moesaic.cli.main run stories260k hi --max-new-tokens 300 | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=PATIENCE_SECONDS)
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr


def test_ctrl_c_ends_quietly_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "moesaic.cli.main", "compress", "stories260k", str(tmp_path / "out")]
    recipe = tmp_path / "slow.yaml"
    recipe.write_text("stages: [{distill: {tokens: 10000000}}]\nevaluation: {documents: 1, truncate: 16}\n")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background, which is inherited
    with subprocess.Popen([*command, "--recipe", str(recipe)], stderr=subprocess.PIPE) as child:
        signal.signal(signal.SIGINT, before)
        first = next((line for line in child.stderr or () if b"distill" in line), b"")
        child.send_signal(signal.SIGINT if first else signal.SIGKILL)
        _, text = child.communicate(timeout=PATIENCE_SECONDS)
    assert child.returncode == 130 and b"Traceback" not in text
    assert [file.name for file in tmp_path.iterdir()] == ["slow.yaml"]


# --- demo ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["file", "folder"])
def test_demo_deletes_nothing_that_it_did_not_make(
    tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "demo" if what == "file" else tmp_path / "demo" / "letter.txt"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    assert main(["demo", "--out", str(tmp_path / "demo")]) == 2
    assert "was not made by a demo, so it is not deleted" in capsys.readouterr().err
    assert mine.read_text() == "mine"


def test_demo_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / ".moesaic-demo").touch()
    (tmp_path / "made" / "letter.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "made")
    assert main(["demo", "--out", str(tmp_path / "link")]) == 2
    assert (tmp_path / "made" / "letter.txt").read_text() == "mine"


def examples(command: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of a command's help that show how it is called."""
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    return [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  moesaic ")]


@pytest.mark.parametrize("command", [*COMMANDS, *BELOW])
def test_every_help_has_examples_that_the_command_line_takes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = examples(command, capsys)
    assert any(line.startswith(f"moesaic {command}") for line in found)
    for line in found:
        words = shlex.split(re.split(r"[>|]", line)[0], comments=True)
        assert build_parser().parse_args(words[1:]).command


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["comprss", "a", "b"], "there is no 'comprss'; did you mean 'compress'?"),
        (["export", "a", "b", "--to", "denze"], "there is no 'denze'; did you mean 'dense'?"),
        (["run", "stories260k", "Once", "--max-new", "3"], "unrecognized arguments: --max-new 3"),
    ],
)
def test_what_was_meant_is_said_and_nothing_is_guessed(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and said in capsys.readouterr().err
