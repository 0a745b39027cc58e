"""The scripts in examples/ run as they stand, and the names that the package promises can be found."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from house import ROOT
from patience import PATIENCE_SECONDS
from server_harness import free_port

import moesaic
from moesaic.bench.local_server import local_server
from moesaic.compress.recipe import shipped_recipes
from moesaic.models.locate import locate

EXAMPLES = {file.stem: file for file in (ROOT / "examples").glob("*.py")}


def shown(name: str, *arguments: str | Path) -> str:
    """What an example prints, in a process of its own."""
    command = [sys.executable, str(EXAMPLES[name]), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What examples/compress.py writes, and what it says."""
    folder = tmp_path_factory.mktemp("examples")
    recipe = shipped_recipes()["moe"].read_text().replace("sequences: 64", "sequences: 16")
    (folder / "moe.yaml").write_text(recipe + "evaluation: {documents: 2}\n")
    return folder / "out", shown("compress", "stories260k", folder / "out", folder / "moe.yaml")


def test_the_example_of_the_http_door_runs(compressed: tuple[Path, str]) -> None:
    code = (ROOT / "docs" / "http.md").read_text().partition("```python\n")[2].partition("```")[0]
    port = free_port()
    with local_server({"tiers": compressed[0]}, "--http-port", str(port)):
        command = [sys.executable, "-c", code.replace("localhost:8000", f"localhost:{port}")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert int(done.stdout.split()[-1]) > 0, done.stderr


def test_compressing_says_what_each_tier_kept(compressed: tuple[Path, str]) -> None:
    lines = compressed[1].splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["full", "high", "balanced", "low"]


def test_a_prompt_is_continued_at_every_tier(compressed: tuple[Path, str]) -> None:
    lines = shown("tiers", compressed[0], "Once upon a time").splitlines()
    assert [line.split(",")[0] for line in lines if "of the bytes: Once upon a time" in line] == [
        "full", "high", "balanced", "low"
    ]  # fmt: skip


def test_an_answer_is_streamed_from_a_server() -> None:
    with local_server({"stories": locate("stories260k")}) as address:
        said = shown("stream", address, "Once upon a time")
    assert "32 new ones" in said.splitlines()[-1]


def test_every_example_is_run_here() -> None:
    assert set(EXAMPLES) == {"compress", "tiers", "stream"}
    for file in EXAMPLES.values():
        assert runpy.run_path(str(file))["__doc__"]  # importing one starts nothing


def test_what_the_package_promises_is_in_its_directory() -> None:
    assert {"LLM", "Client", "load", "compress", "__version__"} <= set(dir(moesaic))
