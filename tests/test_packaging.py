"""What a user installs: the wheel, built from a copy of the tree."""

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType

import pytest
from house import FOLDERS, ROOT

from moesaic.bench.rounds import versions
from moesaic.cli.main import main
from moesaic.evaluate.provenance import provenance
from moesaic.kernels.native import carried_library, native_status
from moesaic.models.errors import SetupError
from moesaic.models.extras import can_draw, check_installed
from moesaic.models.version import VERSION

LEFT_OUT = shutil.ignore_patterns(".*", "build", "demo", "out", "*.egg-info", "__pycache__")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree") / "moesaic"
    shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index", "."]
    subprocess.run([*command, "-w", str(tree)], cwd=tree, check=True, capture_output=True)
    return next(tree.glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """The files of the wheel."""
    with zipfile.ZipFile(wheel) as opened:
        return set(opened.namelist())


def test_the_wheel_is_of_the_version_that_the_package_names(wheel: Path) -> None:
    assert wheel.name.startswith(f"moesaic-{VERSION}-")


def test_the_version_is_known_without_metadata(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder is on the path and nothing was installed."""

    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.distribution", missing)
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"moesaic {VERSION}\n"
    assert versions()["moesaic"] == VERSION and provenance()["versions"] == {"moesaic": VERSION}
    assert main(["doctor"]) == 1 and f"moesaic {VERSION}, Python" in capsys.readouterr().out


def test_the_wheel_holds_every_module_and_no_tests(names: set[str]) -> None:
    modules = {f"moesaic/{file.relative_to(ROOT)}" for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")}
    assert modules | {"moesaic/__init__.py", "moesaic/py.typed"} <= names
    assert not [name for name in names if "tests" in name or "examples" in name]


@pytest.mark.parametrize(
    "needed",
    [
        "moesaic/models/embedded/stories260k/model.safetensors",
        "moesaic/models/embedded/stories260k/tokenizer.json",
        "moesaic/evaluate/data/black_beauty.txt",
        "moesaic/evaluate/templates/base.html.j2",
        "moesaic/compress/recipes/int8.yaml",
        "moesaic/proto/generation.proto",
        "moesaic/proto/generation_pb2.pyi",
    ],
)
def test_the_wheel_holds_the_data_that_it_needs(names: set[str], needed: str) -> None:
    assert needed in names


def test_the_wheel_holds_the_sources_of_the_native_kernels(names: set[str]) -> None:
    ours = {f"moesaic/{file.relative_to(ROOT)}" for file in (ROOT / "kernels").rglob("*.cpp")}
    assert ours and ours <= names


def test_the_wheel_carries_the_library_of_these_sources_where_there_is_a_compiler(wheel: Path, names: set[str]) -> None:
    built = f"moesaic/kernels/built/{carried_library().name}"
    assert (built in names) == native_status().available
    assert wheel.name.endswith("-py3-none-any.whl") != (built in names)


def test_every_dependency_is_pinned_for_our_own_runs() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    asked = {text.split(">")[0].split(";")[0].split("[")[0].strip() for group in groups for text in group}
    assert asked - {"moesaic"} <= pins


def test_what_an_extra_brings_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moesaic.models.extras.find_spec", lambda name: None if name == "matplotlib" else ModuleType)
    with pytest.raises(
        SetupError, match=r"reports needs matplotlib, which is not installed; pip install 'moesaic\[report"
    ):
        check_installed("reports", "report", "matplotlib", "json")
    check_installed("nothing", "report", "json")
    assert not can_draw()
