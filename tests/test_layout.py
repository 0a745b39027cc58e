"""The rules of the tree: what is packaged, who may import whom, what an import may cost."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from house import ARROWS, FOLDERS, ROOT

MODULES = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py") if "_pb2" not in file.name)


def imported_folders(file: Path) -> set[str]:
    """The folders of this package that a module imports, found in its relative imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = file.relative_to(ROOT).parts[:-1]
            target = package[: len(package) - node.level + 1] + tuple((node.module or "").split("."))
            found.add(target[0] if target[0] in FOLDERS else "")
    return found - {""}


def test_every_folder_is_packaged() -> None:
    named = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    parents = {module.parent for module in MODULES} | {ROOT / "proto"}
    assert named == {"moesaic"} | {".".join(("moesaic", *path.relative_to(ROOT).parts)) for path in parents}


def test_folders_have_no_init() -> None:
    """With an __init__.py, kernels/ and proto/ would hide installed packages of the same names."""
    assert not [file for folder in FOLDERS for file in (ROOT / folder).rglob("__init__.py")]


@pytest.mark.parametrize("folder", FOLDERS)
def test_arrows_point_down_only(folder: str) -> None:
    files = [file for file in MODULES if file.relative_to(ROOT).parts[0] == folder]
    imported = set().union(*(imported_folders(file) for file in files))
    assert imported <= ARROWS[folder] | {folder}


def test_the_arrows_have_no_ring() -> None:
    left = dict(ARROWS)
    while left:
        ground = [folder for folder, targets in left.items() if not targets & left.keys()]
        assert ground, f"these import each other: {sorted(left)}"
        for folder in ground:
            del left[folder]


def test_tests_look_at_no_clock() -> None:
    """A busy machine has no time: `patience.py` waits for events, and has a clock that only sleeping moves."""
    clocks = {"time.sleep", "time.monotonic", "time.perf_counter", "time.time"}
    looking = {
        file.name
        for file in (ROOT / "tests").glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if (isinstance(node, ast.Attribute) and ast.unparse(node) in clocks)
        or (isinstance(node, ast.ImportFrom) and node.module == "time")
    }
    # a drain that is no shorter; answers that come too late
    assert looking == {"patience.py", "echo_engine.py", "test_options.py", "fuzz.py"}


def test_the_scheduler_knows_no_text() -> None:
    text = ("llm", "embedding", "settings", "text", "defaults", "build", "guided", "request", "completion")
    for name in {file.stem for file in (ROOT / "engine").glob("*.py")} - {*text}:
        source = (ROOT / "engine" / f"{name}.py").read_text()
        assert "tokenizer" not in source and "from .text" not in source


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_hold_one_idea(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 600


@pytest.mark.parametrize("module", ["moesaic", "moesaic.server.serve", "moesaic.server.client", "moesaic.cli.main"])
def test_a_front_end_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; print('torch' in sys.modules, 'triton' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]


def test_importing_everything_touches_no_gpu() -> None:
    names = [".".join(("moesaic", *file.relative_to(ROOT).with_suffix("").parts)) for file in MODULES]
    names = [name for name in names if ".benchmark_" not in name]
    code = "import importlib, sys, torch\nfor n in sys.argv[1:]: importlib.import_module(n)\n"
    code += "assert not torch.cuda.is_initialized()"
    subprocess.run([sys.executable, "-c", code, *names], check=True)


def test_no_weights_or_messages_are_pickled() -> None:
    for file in MODULES:
        words = {node.id for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Name)}
        assert not words & {"pickle", "eval", "exec"}, file
