"""Every command that a document shows is one that the command line takes, and those on the model that ships run."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from house import ROOT

from moesaic.bench.local_server import local_server
from moesaic.cli.main import build_parser, main
from moesaic.cli.parser import commands_of
from moesaic.compress.recipe import shipped_recipes

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"(?:^|<\()(?:\./|/\S+/)?moesaic (?P<words>[^)\n]+)", re.MULTILINE)
INLINE = re.compile(r"`moesaic ([^`]+)`")
ANY = {"COMMAND", "..."}  # stands for every command
SHORT = {"evaluation": {"documents": 1, "truncate": 64}, "calibration": {"sequences": 4, "length": 64}}


def fenced(text: str) -> Iterator[list[str]]:
    """The words of every command in a fenced block; what a shell does with them, and comments, left out."""
    for block in text.split("```")[1::2]:
        for found in COMMAND.finditer(block.replace("\\\n", " ")):
            yield shlex.split(re.split(r" (?:\||>|&&) ", found["words"])[0], comments=True)


def shown(text: str) -> Iterator[list[str]]:
    """The same, of commands within sentences too that say more than their name."""
    yield from fenced(text)
    prose = " ".join("".join(text.split("```")[::2]).split())
    yield from (words for words in map(shlex.split, INLINE.findall(prose)) if not ANY & {*words})


def taken(words: list[str]) -> str:
    """Empty where the command line takes these words or, alone, this command; else what it says."""
    commands, at = commands_of(build_parser()), 0
    while at < len(words) and words[at] in commands:
        commands, at = commands_of(commands[words[at]]), at + 1
    if at and at == len(words):
        return ""
    try:
        build_parser().parse_args(words)
    except SystemExit as end:
        return f"status {end.code}: moesaic {' '.join(words)}" if end.code else ""
    return ""


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_commands_of_a_document_are_taken_by_the_command_line(file: Path) -> None:
    assert [said for words in shown(file.read_text()) if (said := taken(words))] == []


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_recipes_that_a_document_asks_for_ship_or_are_files(file: Path) -> None:
    asked = [words[words.index("--recipe") + 1] for words in shown(file.read_text()) if "--recipe" in words]
    assert [name for name in asked if name not in shipped_recipes() and not re.search(r"\.yaml$|^[A-Z]+$", name)] == []


@pytest.mark.parametrize(
    "said", ["bench --model x", "serve out --prot 1", "comprss a b --recipe int8", "generate --tier"]
)
def test_a_command_that_is_no_more_is_noticed(said: str) -> None:
    text = (
        f"```\nmoesaic run stories260k 'Once' | head   # why\nmoesaic {said}\n```\n`moesaic {said}` and `moesaic bench`"
    )
    assert len([words for words in shown(text) if taken(words)]) == 2


def commands(name: str) -> list[list[str]]:
    return list(fenced((ROOT / name).read_text()))


def test_the_first_page_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its order, in an empty folder; what serves runs beside those who ask it."""
    monkeypatch.chdir(tmp_path)
    todo = commands("docs/getting-started.md")
    asks = [words for words in todo if words[0] == "generate"]
    for words in (words for words in todo if words not in asks):
        assert main(runnable(words, tmp_path)) == 0, words
    with local_server({"tiers": tmp_path / "out/tiers"}) as address:
        assert [main([*words, "--address", address]) for words in asks] == [0, 0]
    assert "A server under load" in (tmp_path / "out/report.html").read_text()


@pytest.mark.parametrize("name", ["README.md", "docs/commands.md", "docs/sampling.md"])
def test_commands_on_the_model_that_ships_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    todo = [words for words in commands(name) if "stories260k" in words]
    assert todo and [main(runnable(words, tmp_path)) for words in todo] == [0] * len(todo)


@pytest.mark.parametrize("name", ["docs/http.md", "docs/tiers.md"])
def test_a_page_that_makes_its_model_first_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    todo = [words for words in commands(name) if {"stories260k", "out/tiers"} & {*words}]
    assert todo and [main(runnable(words, tmp_path)) for words in todo] == [0] * len(todo)


def runnable(words: list[str], folder: Path) -> list[str]:
    """The same command; a server only says its settings, and a recipe reads less text."""
    if words[0] == "serve":
        return [*words, "--print-config"]
    if "--recipe" not in words:
        return words
    name = words[words.index("--recipe") + 1]
    short = folder / f"{name}.yaml"
    short.write_text(yaml.safe_dump(yaml.safe_load(shipped_recipes()[name].read_text()) | SHORT))
    return [str(short) if word == name else word for word in words]
