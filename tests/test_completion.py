"""Completion in the shells that are here: bash for sure, the others where they are installed."""

import argparse
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from patience import PATIENCE_SECONDS

from moesaic.bench.controls.derive import GROUPS
from moesaic.bench.reference.description import shipped_descriptions
from moesaic.bench.shapes import SHAPES
from moesaic.cli import completion, names
from moesaic.cli.completion import SCRIPTS, described, is_known
from moesaic.cli.main import build_parser, main
from moesaic.cli.parser import commands_of
from moesaic.compress.recipe import shipped_recipes
from moesaic.models.intake.registry import SOURCES

MODELS = {"stories260k", "smollm2", "minilm", "t5", "gemma3-270m"}
RECIPES = set(shipped_recipes())
# What is typed, the last word not yet ended; what is offered for it in a folder with notes.txt and my-model/.
TYPED: list[tuple[str, set[str]]] = [
    ("ru", {"run"}),
    ("models ", {"get", "list"}),
    ("models get sm", {"smollm2"}),
    ("run ", {*MODELS, "my-model"}),
    ("run st", {"stories260k"}),
    ("run stories260k --ti", {"--tier"}),
    ("run stories260k --tier ", {"full", "high", "balanced", "low"}),
    ("eval stories260k --against sm", {"smollm2"}),
    ("export stories260k out --to ", {"dense", "compressed-tensors", "gguf"}),
    ("export stories260k out --dtype b", {"bfloat16"}),
    ("compress stories260k ", {"my-model"}),
    ("compress stories260k out --recipe ", {*RECIPES, "my-model", "notes.txt"}),
    ("compress stories260k out --text n", {"notes.txt"}),
    ("compress stories260k out --text notes.txt n", {"notes.txt"}),
    ("compress stories260k out --text notes.txt --rec", {"--recipe"}),
    ("compress stories260k out --report ", {"my-model"}),
    ("serve stories260k s", {"stories260k", "smollm2"}),
    ("serve --port ", set()),
    ("bench k", {"kernels"}),
    ("import n", {"notes.txt"}),
    ("completion ", {"bash", "zsh", "fish"}),
    ("recipes show in", {"int8"}),
    ("--v", {"--version"}),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my-model").mkdir()
    (tmp_path / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def script(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script of the shell that the test names, in a file."""
    file = tmp_path_factory.mktemp("script") / "moesaic"
    file.write_text(SCRIPTS[request.param](list(described(build_parser()))))
    return file


def output(command: Sequence[str]) -> list[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": os.getcwd(), "TERM": "dumb"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, env=environment)
    assert done.returncode == 0 and done.stderr == ""
    return done.stdout.split("\n")


def bash(script: Path, words: str) -> set[str]:
    """What the completion function of bash replies, called as bash does."""
    code = f"source {script}; COMP_WORDS=(moesaic {words}); "
    code += f"COMP_CWORD={len(words.split())}; " + ("COMP_WORDS+=(''); ((COMP_CWORD++)); " if words[-1] == " " else "")
    return set(filter(None, output(["bash", "--norc", "-c", f'{code} _moesaic; printf "%s\\n" "${{COMPREPLY[@]}}"'])))


# --- bash ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["bash"], indirect=True)
@pytest.mark.parametrize(("words", "offered"), TYPED)
def test_bash_offers_what_may_stand_there(words: str, offered: set[str], script: Path) -> None:
    assert bash(script, words) == offered


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash_completes_behind_an_equals_sign(script: Path) -> None:
    assert bash(script, "run stories260k --tier = b") == {"balanced"}
    assert bash(script, "run stories260k --tier =") == {"full", "high", "balanced", "low"}
    assert bash(script, "run stories260k --tier = low --dt") == {"--dtype"}


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash_offers_every_command_and_nothing_for_what_is_none(script: Path) -> None:
    commands = next(described(build_parser())).below
    assert bash(script, " ") == {*commands}
    assert bash(script, "no-such-command ") == set()


@pytest.mark.parametrize("script", ["bash"], indirect=True)
def test_bash_keeps_names_with_spaces_whole(script: Path, folder: Path) -> None:
    (folder / "my own model").mkdir()
    assert bash(script, "run my") == {"my-model", "my own model"}


# --- the others, where they are ------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize("script", ["fish"], indirect=True)
@pytest.mark.parametrize(("words", "offered"), TYPED)
def test_fish_offers_what_may_stand_there(words: str, offered: set[str], script: Path) -> None:
    """Positional arguments are offered in any order there, so more than these may be."""
    shown = output(["fish", "--no-config", "-c", f'source {script}; complete -C "moesaic {words}"'])
    found = {line.split("\t")[0].rstrip("/") for line in shown if line}
    assert offered <= found and (words.count(" ") > 1 or offered == found)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize("script", ["zsh"], indirect=True)
def test_zsh_reads_the_script_and_has_a_function_for_every_command(script: Path) -> None:
    code = f"autoload -Uz compinit; compinit -u -D; source {script}; print -l ${{(k)functions}}; print $_comps[moesaic]"
    shown = output(["zsh", "-f", "-c", code])
    assert shown[-2] == "_moesaic" and {"_moesaic_run", "_moesaic_models_get", "_moesaic_offer"} <= set(shown)


# --- in all of them ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_script_names_every_command_option_and_choice(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    words = set(re.findall(r"[\w.-]+", capsys.readouterr().out.replace("-l ", "--")))
    for command in described(build_parser()):
        flags = {each.flags[-1] for each in command.options}
        assert (
            flags | {*command.words} | {word for each in command.places if each.hint for word in each.hint.words}
            <= words
        )


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_script_needs_neither_python_nor_moesaic(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", shell])
    body = [line for line in capsys.readouterr().out.splitlines() if not line.lstrip().startswith("#")]
    assert not [line for line in body if "python" in line or "$(moesaic" in line or "(moesaic" in line]


def unknown(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[str]:
    """Arguments of which cli/completion.py does not say what completes them."""
    yield from (" ".join((*words, each.dest)) for each in parser._actions if not is_known(each, words))
    for name, below in commands_of(parser).items():
        yield from unknown(below, (*words, name))


def test_of_every_argument_it_is_said_what_completes_it() -> None:
    assert list(unknown(build_parser())) == []


def test_an_argument_that_nobody_thought_of_is_noticed_and_breaks_no_script() -> None:
    parser = build_parser()
    commands_of(parser)["run"].add_argument("--colour", help="new")
    commands_of(parser)["run"].add_argument("--hue", metavar="N")
    assert list(unknown(parser)) == ["run colour"]
    assert all("colour" in script(list(described(parser))) for script in SCRIPTS.values())


def test_names_that_are_written_down_here_are_those_of_the_commands() -> None:
    assert names.CONTROLS == GROUPS and names.SHAPES == tuple(SHAPES)
    assert completion._shipped("compress/recipes") == tuple(sorted(RECIPES))
    assert completion._shipped("bench/reference/descriptions") == tuple(sorted(shipped_descriptions()))
    tiers = {name for name in RECIPES for name in re.findall(r"(\w+): 0\.", shipped_recipes()[name].read_text())}
    assert {*names.TIERS} - {"full"} <= tiers
    assert MODELS <= {*SOURCES}
