"""Which change of the code lets finished stages stand, and which has them made again."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

from moesaic.compress.recipe import STAGES
from moesaic.compress.stage_cache import DECIDING

ROOT = Path(__file__).resolve().parents[1]
# Reached by stages, and of no influence on what they write: how one says no, waits, finds a folder, shows a place.
IDLE = {
    "compress/sizes.py", "compress/stage.py", "compress/strict.py", "models/bounds.py", "models/dial.py",
    "models/errors.py", "models/extras.py", "models/files.py", "models/finite.py", "models/host_memory.py",
    "models/hub_names.py", "models/intake/registry.py", "models/links.py", "models/locate.py",
    "models/optional_json.py", "models/panics.py", "models/progress.py", "models/suggestion.py",
    "models/text_bound.py", "models/version.py",
}  # fmt: skip


def imported(file: Path) -> set[Path]:
    """The modules of this package that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            place = file.parents[node.level - 1] / (node.module or "").replace(".", "/")
            found |= {place.with_suffix(".py"), *(place / f"{alias.name}.py" for alias in node.names)}
    return {each for each in found if each.is_file()}


def reached() -> set[str]:
    """Every module that a stage or the writing of its result needs, by its path."""
    waiting = [ROOT / f"{stage.__module__.removeprefix('moesaic.').replace('.', '/')}.py" for stage in STAGES.values()]
    waiting.append(ROOT / "compress/output.py")
    seen: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            waiting += imported(file)
    return {file.relative_to(ROOT).as_posix() for file in seen}


def test_what_decides_a_byte_is_named_and_nothing_else() -> None:
    named = {place for file in reached() for place in DECIDING if file == place or file.startswith(f"{place}/")}
    unnamed = {file for file in reached() if not any(file == each or file.startswith(f"{each}/") for each in DECIDING)}
    assert unnamed == IDLE
    assert named == set(DECIDING)


KEEPING = (
    "bench/controls/picture.py", "bench/controls/report.py", "compress/diagnose/diagnosis.py", "compress/judge.py",
    "engine/sampler.py",
)  # fmt: skip
DISCARDING = ("compress/prune/scores.py", "kernels/cpp/linear.cpp", "models/transformer.py")
EDIT_EACH = """
import sys
from pathlib import Path
from moesaic.compress.identity import code_sha256
from moesaic.compress.stage_cache import stage_key

for name in sys.argv[1:]:
    file, keys = Path(name), []
    for text in (file.read_text(), file.read_text() + chr(10), file.read_text()):
        file.write_text(text)
        code_sha256.cache_clear()
        keys.append(stage_key("", "prune", {}, 0, ""))
    print(keys[0] == keys[1], keys[0] == keys[2])
"""


def test_a_changed_file_keeps_finished_stages_unless_it_decides(tmp_path: Path) -> None:
    copy = tmp_path / "moesaic"
    left_out = shutil.ignore_patterns("results", "__pycache__", "embedded")
    for folder in ("bench", "compress", "evaluate", "engine", "kernels", "models"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=left_out)
    shutil.copy(ROOT / "__init__.py", copy)
    shown = subprocess.run(
        [sys.executable, "-c", EDIT_EACH, *KEEPING, *DISCARDING], cwd=copy, env={"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert shown.split("\n")[:-1] == ["True True"] * len(KEEPING) + ["False True"] * len(DISCARDING)
