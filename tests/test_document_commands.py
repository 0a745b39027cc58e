"""Every command that a document shows is one that the command line takes, and most of them run.

They run on the model that ships, those of pages about models of one's own with fewer tokens. Left out are `bench all`,
`bench engine` and `bench ops`, which tests of their own run, and what needs llama.cpp.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from house import ROOT

from moesaic.bench.local_server import local_server
from moesaic.bench.server.processes import free_port
from moesaic.cli.main import build_parser, main
from moesaic.cli.parser import commands_of
from moesaic.compress.recipe import shipped_recipes
from moesaic.evaluate.texts import embedded_text
from moesaic.models.locate import locate

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


ELSEWHERE = (["bench", "all"], ["bench", "engine"], ["bench", "ops"])
SHORTER = {
    "bench serve": ["--seconds", "2", "--warm-up", "1", "--longest", "64"],
    "bench retention": ["--windows", "3", "--length", "64", "--context", "16", "--kl", "2"],
    "eval": ["--truncate", "64", "--documents", "1"],
    "retention": ["--windows", "2", "--length", "64", "--calibration", "2", "--share", "0.62", "--only", "TEAL"],
}  # fmt: skip
TRACE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,9,3\n2023-11-16 18:15:46.90,7,2\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a reader has a model, what was made of it, a text and a trace."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(locate("stories260k"), "my-model")
    Path("valid.txt").write_text(embedded_text().read_text(encoding="utf-8")[:40_000], encoding="utf-8")
    Path("azure.csv").write_text(TRACE)
    tiers = {"moefy": {"grain": "inputs", "tiers": {"low": 0.6}}}
    for name, stages in (("int8", []), ("graded-0", [tiers])):
        Path("recipe.yaml").write_text(yaml.safe_dump({"stages": [*stages, {"quantize": {"linears": "int8"}}]} | SHORT))
        assert main(["compress", "my-model", f"out/{name}", "--recipe", "recipe.yaml"]) == 0
    for made, name in (("graded-0", "graded-1"), ("graded-0", "graded-2"), ("int8", "gptq")):
        shutil.copytree(f"out/{made}", f"out/{name}")
    return tmp_path


def test_the_page_about_benchmarks_runs(folder: Path) -> None:
    todo = [each for each in commands("docs/benchmark.md") if each[:2] not in ELSEWHERE and "model.gguf" not in each]
    web = free_port()
    with local_server({"model": "my-model"}, "--http-port", str(web)) as address:
        for words in todo:
            if words[:2] == ["bench", "compare"]:
                shutil.copy("out/load.json", "before.json")
                shutil.copy("out/load.json", "after.json")
            found = [each.replace("127.0.0.1:50051", address).replace(":8080", f":{web}") for each in words]
            there = [each for each in found if Path(each).suffix != ".json" or Path(each).exists()]
            command = " ".join(words[: 1 + (words[0] == "bench")])
            if command in ("bench serve", "bench retention"):  # what they wrote before is of another plan
                Path(f"out/{'load' if words[1] == 'serve' else 'retention'}.json").unlink(missing_ok=True)
            assert main([*there, *SHORTER.get(command, [])]) == 0, words
    assert "What is kept" in (folder / "out/retention.html").read_text() and (folder / "report.html").is_file()


def test_the_page_about_recipes_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands("docs/compress.md"):
        capsys.readouterr()
        assert main(["my-model" if each == "smollm2" else each for each in words]) == 0, words
        if words[:2] == ["recipes", "show"]:
            shown = yaml.safe_load(capsys.readouterr().out)
            distilled = next(each["distill"] for each in shown["stages"] if "distill" in each)
            distilled |= {"tokens": 512, "batch": 2}
            (folder / "mine.yaml").write_text(yaml.safe_dump({**shown, **SHORT}))
    assert list((folder / "out/plain").glob("*.safetensors"))


@pytest.mark.parametrize("page", ["docs/serve.md", "docs/security.md"])
def test_pages_about_serving_name_settings_that_hold(page: str, folder: Path) -> None:
    (folder / "serve.yaml").write_text("max_requests: 64\n")
    todo = commands(page)
    said = [[*words, *([] if {"token", "--print-config"} & {*words} else ["--print-config"])] for words in todo]
    assert [main(words) for words in said] == [0] * len(todo)
