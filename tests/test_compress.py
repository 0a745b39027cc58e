"""A recipe gives a whole directory or none, says what it kept, and refuses what it does not know."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from builders import edit_json, llama

import moesaic
from moesaic.compress.pipeline import compress
from moesaic.compress.recipe import read_recipe, shipped_recipes
from moesaic.kernels.cache import cache_folder
from moesaic.models.checkpoint import open_checkpoint
from moesaic.models.errors import CheckpointError, OutputError, RecipeError, TextError
from moesaic.models.record import FORMAT

ROOT = Path(__file__).resolve().parents[1]
STORIES = ROOT.parent / "shared" / "data" / "text" / "valid" / "tinystories_a.txt"
QUICK: dict[str, Any] = {
    "stages": [{"quantize": {"linears": "int8"}}],
    "evaluation": {"documents": 1, "truncate": 16},
}


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache without stages and scores of another test, with the C++ library that is built already."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "native").symlink_to(cache_folder() / "native")
    monkeypatch.setenv("MOESAIC_CACHE", str(cache))
    return cache


@pytest.fixture
def model(tmp_path: Path) -> Path:
    llama(tmp_path / "model", num_hidden_layers=1)
    return tmp_path / "model"


def left_behind(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.name != "model")


def refused(recipe: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        read_recipe(recipe)
    return str(caught.value)


# --- what is kept --------------------------------------------------------------------------------------------------


def test_int8_keeps_the_embedded_model_within_a_thousandth(tmp_path: Path) -> None:
    done = moesaic.compress("stories260k", tmp_path / "int8")
    assert done.result["perplexity"] <= 1.001 * done.original["perplexity"]
    assert done.result["top1_agreement"] > 0.97 and done.result["kl_nats_per_token"] < 0.001
    assert round(done.bytes_after / done.bytes_before, 2) == 0.27


IMPORTS = [
    "import moesaic, moesaic.compress.pipeline",
    "import moesaic.compress.pipeline, moesaic",
    "import moesaic; moesaic.compress; import moesaic.compress.recipe",
    "from moesaic import compress; import moesaic.compress.recipe; assert compress is moesaic.compress",
]
IN_A_FORK_EACH = """
import contextlib, os, sys
for other in ("torch", "pydantic", "triton.language"):
    with contextlib.suppress(ImportError): __import__(other)
for imports in sys.argv[1:]:
    if os.fork() == 0:
        exec(imports)
        import moesaic, moesaic.compress.stage as stage
        try: moesaic.compress("nowhere", "out")
        except Exception as error: print(stage.__name__, type(error).__name__, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, imports
"""


def test_compress_is_a_folder_and_a_function_however_it_is_imported() -> None:
    command = [sys.executable, "-c", IN_A_FORK_EACH, *IMPORTS]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["moesaic.compress.stage", "CheckpointError"] * len(IMPORTS)


@pytest.mark.skipif(not STORIES.exists(), reason=f"{STORIES.name} is not beside this checkout")
def test_int8_keeps_the_embedded_model_on_the_stories_it_was_made_for(tmp_path: Path) -> None:
    text = {"text": [str(STORIES)], "documents": 120, "truncate": 512}
    done = compress("stories260k", tmp_path / "int8", {**QUICK, "evaluation": text})
    assert done.original["tokens"] == 45_542
    assert done.original["perplexity"] == pytest.approx(4.166, abs=5e-4)
    assert done.original["top1_accuracy"] == pytest.approx(0.6114, abs=5e-5)
    assert done.result["perplexity"] <= 1.001 * done.original["perplexity"]


def test_what_was_done_and_measured_is_written_down(model: Path, tmp_path: Path) -> None:
    done = compress(model, tmp_path / "out", QUICK)
    record = open_checkpoint(tmp_path / "out").record
    [stage] = record.stages
    settings = {"linears": "int8", "activations": None, "embeddings": True, "kv_cache": None}
    assert (stage.name, stage.settings) == ("quantize", settings)
    assert stage.measured == {"original": done.original, "result": done.result, "weight_bytes": done.bytes_after}
    assert set(record.files) == {"model.safetensors"} and len(stage.input_sha256) == 64


def test_the_same_run_twice_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    compress(model, tmp_path / "a", QUICK)
    compress(model, tmp_path / "b", QUICK)
    files = sorted(file.name for file in (tmp_path / "a").iterdir())
    assert files == ["config.json", "generation_config.json", "model.safetensors", "moesaic.json", "tokenizer.json"]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_the_original_is_not_touched(model: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in model.iterdir()}
    compress(model, tmp_path / "out", QUICK)
    assert {file.name: file.read_bytes() for file in model.iterdir()} == before


def test_sharded_weights_are_read_and_large_ones_written_in_shards(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moesaic.models import writer

    plain = compress(model, tmp_path / "plain", QUICK)
    monkeypatch.setattr(writer.write_weights, "__defaults__", (10_000,))
    shards = compress(model, tmp_path / "shards", QUICK)
    assert len(open_checkpoint(tmp_path / "shards").files) > 1 and shards.result == plain.result
    with pytest.raises(RecipeError, match="int8 already"):
        compress(tmp_path / "shards", tmp_path / "again", QUICK)


# --- recipes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "hint"),
    [
        ({"stages": [{"quantise": {"linears": "int8"}}]}, "stage 1 is 'quantise'; did you mean 'quantize'?"),
        ({"stages": [{"quantize": {"linear": "int8"}}]}, "unknown key 'linear'; did you mean 'linears'?"),
        (
            {"stages": [{"quantize": {"linears": "int8", "embedings": True}}]},
            "unknown key 'embedings'; did you mean 'embeddings'?",
        ),
        ({"stages": [{"prune": {"method": "flop", "remove": 0.1}}]}, "no method 'flop'; did you mean 'flap'?"),
        ({"stage": []}, "unknown key 'stage'; did you mean 'stages'?"),
        ({**QUICK, "evaluation": {"document": 3}}, "did you mean 'documents'?"),
        ({5: 5}, "unknown key 5; known here: calibration, device, evaluation, seed, stages"),
    ],
)
def test_unknown_keys_are_refused_with_what_was_meant(recipe: Any, hint: str) -> None:
    assert hint in refused(recipe)


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"stages": []},
        {"stages": None},
        {"stages": ["quantize"]},
        {"stages": [{}]},
        {"stages": [{"quantize": None}]},
        {"stages": [{"quantize": {"linears": "int4"}}]},
        {"stages": [{"quantize": {"linears": "int8", "embeddings": "no"}}]},
        {"stages": [{"quantize": {"linears": "int8"}, "prune": {}}]},
        {"stages": [{"prune": {"method": ["flap"], "remove": 0.1}}]},
        {**QUICK, "seed": "x"},
        {**QUICK, "seed": -1},
        {**QUICK, "seed": 10**20},
        {**QUICK, "evaluation": {"documents": 0}},
        {**QUICK, "evaluation": {"truncate": 1}},
        {**QUICK, "evaluation": {"text": "one.txt"}},
    ],
)
def test_a_recipe_that_says_nothing_sensible_is_refused(recipe: Any) -> None:
    assert refused(recipe).startswith("recipe: ")


@pytest.mark.parametrize(
    "text",
    ["", "- a", "stages: [", "seed: 2020-13-45", "a: &a [*a]", "\x00", "!!python/object:os.system {}", "{" * 5000],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    assert "recipe.yaml" in refused(tmp_path / "recipe.yaml")


def test_an_unknown_recipe_is_refused_with_what_was_meant() -> None:
    assert "did you mean 'int8'?" in refused("int9")


def test_all_mistakes_of_a_recipe_are_told() -> None:
    text = refused({"stages": [{"quantize": {"linears": "int4"}}], "seed": "x"})
    assert "quantize" in text and "seed" in text


def test_recipes_that_mean_the_same_are_the_same() -> None:
    spelled = {"stages": [{"quantize": {"linears": "int8", "embeddings": True}}], "seed": 0}
    assert read_recipe("int8").sha256() == read_recipe(spelled).sha256() != read_recipe({**spelled, "seed": 1}).sha256()


def test_every_shipped_recipe_reads(tmp_path: Path) -> None:
    assert "int8" in shipped_recipes()
    for name, file in shipped_recipes().items():
        assert read_recipe(name) == read_recipe(file)


# --- whole or not at all -------------------------------------------------------------------------------------------


def test_a_dry_run_writes_nothing_and_knows_the_size(model: Path, tmp_path: Path) -> None:
    planned = compress(model, tmp_path / "deep" / "out", QUICK, dry_run=True).bytes_after
    assert left_behind(tmp_path) == []
    assert compress(model, tmp_path / "out", QUICK).bytes_after == planned


@pytest.mark.parametrize("out", [Path("out"), None])
def test_a_finished_result_is_recognised(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: Path | None
) -> None:
    monkeypatch.chdir(tmp_path)
    first = compress(model, out or tmp_path / "out", QUICK)
    written = (tmp_path / "out" / "moesaic.json").stat().st_mtime_ns
    again = compress(model, out or tmp_path / "out", QUICK)
    assert again.already_there and again.result == first.result
    assert (tmp_path / "out" / "moesaic.json").stat().st_mtime_ns == written


@pytest.mark.parametrize("what", ["empty", "file", "model", "link", "full"])
def test_what_stands_at_out_already_is_not_touched(model: Path, tmp_path: Path, what: str) -> None:
    out = tmp_path / "out"
    if what == "empty":
        out.mkdir()
    elif what == "file":
        out.write_text("mine")
    elif what == "model":
        shutil.copytree(model, out)
    elif what == "link":
        out.symlink_to(tmp_path / "nowhere")
    else:
        out.mkdir()
        (out / "letter.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="remove it or name another directory"):
        compress(model, out, QUICK)
    assert left_behind(tmp_path) == ["out"]


def test_a_result_of_another_recipe_or_model_is_not_ours(model: Path, tmp_path: Path) -> None:
    compress(model, tmp_path / "out", QUICK)
    with pytest.raises(CheckpointError, match="is not the result of this recipe on this model"):
        compress(model, tmp_path / "out", {**QUICK, "seed": 1})
    edit_json(model / "config.json", rms_norm_eps=1e-4)
    with pytest.raises(CheckpointError, match="is not the result of this recipe on this model"):
        compress(model, tmp_path / "out", QUICK)


def test_a_result_that_was_damaged_since_is_not_taken_for_finished(model: Path, tmp_path: Path) -> None:
    compress(model, tmp_path / "out", QUICK)
    with (tmp_path / "out" / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x55")
    with pytest.raises(CheckpointError, match="its hash differs"):
        compress(model, tmp_path / "out", QUICK)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("step", ["writing tensors", "scoring the original", "scoring after quantize"])
def test_a_failure_in_the_middle_leaves_nothing(model: Path, tmp_path: Path, error: Any, step: str) -> None:
    def fail(what: str, done: int, total: int) -> None:
        if what == step:
            raise error("no more")

    with pytest.raises(error, match="no more"):
        compress(model, tmp_path / "out", QUICK, fail)
    assert left_behind(tmp_path) == []


def test_a_kill_in_the_middle_leaves_no_result_and_the_next_run_cleans_up(model: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time; from moesaic.compress.pipeline import compress\n"
        "def wait(what, done, total):\n"
        "    if what.startswith('writing'): print('half way', flush=True); time.sleep(600)\n"
        "compress(sys.argv[1], sys.argv[2], progress=wait)"
    )
    out = tmp_path / "out[1]"
    child = subprocess.Popen([sys.executable, "-c", code, str(model), str(out)], stdout=subprocess.PIPE)
    assert child.stdout and child.stdout.readline() == b"half way\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    (partial,) = left_behind(tmp_path)
    assert partial.startswith(f".out[1].partial-{child.pid}-")
    compress(model, out, QUICK)
    assert left_behind(tmp_path) == ["out[1]"]


def test_leftovers_of_living_processes_and_other_runs_stay(model: Path, tmp_path: Path) -> None:
    names = [f".out.partial-{os.getppid()}-a", ".other.partial-999999999-a", ".out.partial-x"]
    for name in [*names, f".out.partial-{10**30}-a"]:
        (tmp_path / name).mkdir()
    compress(model, tmp_path / "out", QUICK)
    assert left_behind(tmp_path) == sorted([*names, "out"])


def test_of_two_runs_into_one_directory_one_wins_and_it_is_whole(model: Path, tmp_path: Path) -> None:
    code = f"import sys; from moesaic.compress.pipeline import compress; compress(*sys.argv[1:], {QUICK})"
    command = [sys.executable, "-c", code, str(model), str(tmp_path / "out")]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [(child.communicate()[1], child.returncode) for child in both]
    assert any(code == 0 for _, code in ends)
    assert all("exists already; remove it" in text for text, code in ends if code)
    assert left_behind(tmp_path) == ["out"] and compress(model, tmp_path / "out", QUICK).already_there


def test_out_that_appears_meanwhile_is_not_overwritten(model: Path, tmp_path: Path) -> None:
    def interfere(what: str, done: int, total: int) -> None:
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "letter.txt").write_text("mine")

    with pytest.raises(OutputError, match="exists already"):
        compress(model, tmp_path / "out", QUICK, interfere)
    assert left_behind(tmp_path) == ["out"] and (tmp_path / "out" / "letter.txt").read_text() == "mine"


def test_a_full_disk_is_told_before_anything_is_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", ["total", "used", "free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10, 9, 1))
    with pytest.raises(OutputError, match="1 are free in .*; make room first"):
        compress(model, tmp_path / "deep" / "out", QUICK)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_calibration_text_that_no_stage_looks_at_is_not_read(model: Path, tmp_path: Path, dry_run: bool) -> None:
    recipe = {**QUICK, "calibration": {"text": ["/nowhere"], "length": 64}}
    assert compress(model, tmp_path / "out", recipe, dry_run=dry_run).bytes_after > 0


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_missing_text_is_told_before_the_work(model: Path, tmp_path: Path, dry_run: bool) -> None:
    recipe = {**QUICK, "evaluation": {"text": [str(tmp_path / "nope.txt")]}}
    with pytest.raises(TextError, match="there is no text file"):
        compress(model, tmp_path / "out", recipe, lambda *_: pytest.fail("it began"), dry_run)
    assert left_behind(tmp_path) == []


def test_weights_that_are_not_finite_leave_no_result(model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, model / "model.safetensors")
    with pytest.raises(CheckpointError, match="NaN"):
        compress(model, tmp_path / "out", QUICK)
    assert left_behind(tmp_path) == []


def test_the_record_is_strict_json(model: Path, tmp_path: Path) -> None:
    compress(model, tmp_path / "out", QUICK)
    text = (tmp_path / "out" / "moesaic.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name))["format"] == FORMAT
    assert time.strftime("%Y-%m") not in text  # no clock in hashed files
