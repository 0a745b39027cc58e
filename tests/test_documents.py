"""What documents say of the tree is true of it: the arrows they draw, and the files and folders they name."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import ARROWS, FOLDERS, ROOT

from moesaic.engine.constraint import ConstraintSettings
from moesaic.engine.sampling import OPTIONS, SamplingSettings
from moesaic.engine.token_rules import TokenSettings

DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(file.relative_to(ROOT)) for file in DOCUMENTS]
TOP = {*FOLDERS, "tests", "docs", "deploy", ".ci"}
MADE = {"build", "out", "demo", ".venv", ".carry"}  # what a checkout holds that no commit does
SUFFIXES = {".service", ".py", ".pyi", ".md", ".cpp", ".h", ".proto", ".sh", ".toml", ".yaml", ".txt", ".png"}
FOREIGN = {"config.json", "tokenizer.json", "moesaic.json", "report.json", "recipe.yaml"}  # of a model, not of the tree
TREE = [path for name in TOP for path in (ROOT / name).rglob("*") if path.is_file()]

ARROW = re.compile(r"^(\w+) -+> +(\w+(?: \w+)*)(?:  .*)?$", re.MULTILINE)
GROUND = re.compile(r"^(\w+) {4,}(\w+)(?:  .*)?$", re.MULTILINE)
NAME = re.compile(r"_?(?:[A-Z]+[a-z]\w*[A-Z]\w*|[a-z]\w*_\w+)")  # TextStream, asked_of
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)\)")
PLACEHOLDER = re.compile(r"[A-Z]{3,}")  # kernels/NAME.py


def prose(file: Path) -> str:
    """A document without its fenced blocks."""
    return "".join(file.read_text().split("```")[::2])


def arrows_of(text: str) -> dict[str, set[str]]:
    """folder -> the folders that it points to, as a block of lines draws them; the last line names the ground."""
    found = {folder: set(targets.split()) for folder, targets in ARROW.findall(text)}
    return found | {folder: set[str]() for ground in GROUND.findall(text) for folder in ground} if found else {}


def blocks_with_arrows(file: Path) -> Iterator[dict[str, set[str]]]:
    blocks = map(arrows_of, file.read_text().split("```")[1::2])
    return (found for found in blocks if found.keys() & ARROWS.keys())


def named_paths(text: str) -> list[str]:
    """What stands in backticks and looks like a path of this tree: begins with a folder of it, or ends like a file."""
    words = [word for code in CODE.findall(text) for word in [code.split("::")[0].split(":")[0].rstrip("/")]]
    paths = [word for word in words if re.fullmatch(r"[\w.{},/-]+", word) and word not in FOREIGN]
    return [each for each in paths if each.split("/")[0] in TOP or Path(each).suffix in SUFFIXES]


def exists(path: str) -> bool:
    """A path from the root, or the end of one; of NAME only the folder must be there."""
    path = str(Path(path).parent) if PLACEHOLDER.search(Path(path).stem) else path
    inside = f"/{path}"
    return (ROOT / path).exists() or any(str(file).endswith(inside) for file in TREE) or path.split("/")[0] in MADE


@pytest.mark.parametrize("file", DOCUMENTS, ids=NAMES)
def test_the_arrows_that_a_document_draws_are_those_of_the_house(file: Path) -> None:
    for found in blocks_with_arrows(file):
        assert found == ARROWS


def test_the_architecture_draws_the_arrows() -> None:
    assert len(list(blocks_with_arrows(ROOT / "docs/architecture.md"))) == 1


@pytest.mark.parametrize(
    ("planted", "found"),
    [
        ("cli -> bench server    what it does", {"cli": {"bench", "server"}}),
        ("cli ---> bench\nkernels     proto   ground", {"cli": {"bench"}, "kernels": set(), "proto": set()}),
        ("client --> front end", {"client": {"front", "end"}}),
        ("no arrows here", {}),
    ],
)
def test_an_arrow_is_read_as_it_is_drawn(planted: str, found: dict[str, set[str]]) -> None:
    assert arrows_of(planted) == found


@pytest.mark.parametrize("file", DOCUMENTS, ids=NAMES)
def test_the_files_that_a_document_names_exist(file: Path) -> None:
    assert [each for each in named_paths(prose(file)) if not exists(each)] == []


@pytest.mark.parametrize("file", DOCUMENTS, ids=NAMES)
def test_the_files_that_a_document_links_to_exist(file: Path) -> None:
    assert [each for each in LINK.findall(prose(file)) if not (file.parent / each).exists()] == []


@pytest.mark.parametrize("file", DOCUMENTS[1:], ids=NAMES[1:])
def test_the_names_that_a_document_takes_from_code_are_there(file: Path) -> None:
    """What stands alone in backticks, as `TextStream`, `Engine.step` or `asked_of`; the README speaks to users."""
    codes = {part for code in CODE.findall(prose(file)) for part in code.removesuffix("()").split(".")}
    files = (path for path in TREE if path.suffix in (".py", ".proto") and path != Path(__file__))
    known = {word for path in files for word in re.findall(r"\w+", path.read_text())}
    assert {code for code in codes if NAME.fullmatch(code) and not PLACEHOLDER.search(code)} <= known


def test_the_page_on_sampling_has_every_option_and_its_values() -> None:
    rows = [line.split(" | ") for line in (ROOT / "docs/sampling.md").read_text().splitlines() if line[:3] == "| `"]
    values = {name: cells[1] for cells in rows for name in CODE.findall(cells[0])}
    settings = {
        **SamplingSettings.__annotations__,
        **TokenSettings.__annotations__,
        **ConstraintSettings.__annotations__,
    }
    assert values.keys() == settings.keys()
    assert {name: values[name] for name in OPTIONS} == {name: option.rule for name, option in OPTIONS.items()}


def test_a_name_that_is_gone_is_noticed() -> None:
    said = "`kernels/gone.py`, `gone.py`, `kernels/NAME.py`, `engine/`, `tests/test_layout.py::test_x`, `config.json`"
    assert [each for each in named_paths(said) if not exists(each)] == ["kernels/gone.py", "gone.py"]


@pytest.mark.parametrize("file", DOCUMENTS, ids=NAMES)
def test_a_document_names_no_path_of_one_machine(file: Path) -> None:
    assert not re.search(r"(?<![\w.])/(work|root|home|tmp|Users)\b", file.read_text())
