"""A run that is cut off goes on from where it was, and ends with the same bytes as one that never was."""

import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import llama

from moesaic.compress.pipeline import compress
from moesaic.compress.stage_cache import stages_folder
from moesaic.kernels.cache import cache_folder
from moesaic.models.checkpoint import open_checkpoint

ALL_FOUR: dict[str, Any] = {
    "calibration": {"sequences": 8, "length": 32},
    "evaluation": {"documents": 1, "truncate": 16},
    "stages": [
        {"prune": {"remove": 0.1}},
        {"distill": {"tokens": 640, "batch": 2, "save_every": 2, "lr": 1e-3}},
        {"moefy": {"expert_size": 8, "router_width": 8, "tiers": {"low": 0.6}}},
        {"quantize": {"linears": "int8"}},
    ],
}


class Cut(Exception):
    pass


@pytest.fixture
def caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Switches to a cache of its own, by name."""
    root, native = tmp_path_factory.mktemp("caches"), cache_folder() / "native"

    def use(name: str) -> Path:
        if not (root / name).exists():
            (root / name).mkdir()
            (root / name / "native").symlink_to(native)
        monkeypatch.setenv("MOESAIC_CACHE", str(root / name))
        return root / name

    return use


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_cut_off_ten_times_gives_the_bytes_of_one_that_was_not(tmp_path: Path, caches: Any) -> None:
    llama(tmp_path / "model", num_hidden_layers=2)
    caches("unbroken")
    events: list[str] = []
    compress(tmp_path / "model", tmp_path / "unbroken", ALL_FOUR, lambda what, *_: events.append(what))
    caches("broken")
    draw = random.Random(0)
    for _ in range(10):
        left = draw.randrange(1, 12)

        def cut(what: str, done: int, total: int) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Cut

        with pytest.raises(Cut):
            compress(tmp_path / "model", tmp_path / "broken", ALL_FOUR, cut)
        assert not (tmp_path / "broken").exists()
    compress(tmp_path / "model", tmp_path / "broken", ALL_FOUR)
    assert contents(tmp_path / "broken") == contents(tmp_path / "unbroken") and len(set(events)) > 8


def test_training_goes_on_from_its_last_saved_step(tmp_path: Path, caches: Any) -> None:
    llama(tmp_path / "model", num_hidden_layers=1)
    caches("one")
    steps: list[int] = []

    def watch(what: str, done: int, total: int) -> None:
        if what.startswith("distill"):
            steps.append(done)
            if steps == [1, 2, 3, 4, 5]:
                raise Cut

    with pytest.raises(Cut):
        compress(tmp_path / "model", tmp_path / "out", ALL_FOUR, watch)
    compress(tmp_path / "model", tmp_path / "out", ALL_FOUR, watch)
    assert steps == [1, 2, 3, 4, 5, *range(5, 11)]


def test_what_is_learned_is_kept_exactly_until_a_stage_rounds_it(tmp_path: Path, caches: Any) -> None:
    caches("one")
    llama(tmp_path / "model", num_hidden_layers=1).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    compress(tmp_path / "model", tmp_path / "out", {
        "calibration": {"sequences": 2, "length": 32}, "evaluation": {"documents": 1, "truncate": 24},
        "stages": [{"distill": {"tokens": 64, "batch": 1, "lr": 1e-5}}, {"quantize": {"linears": "int8"}}],
    })  # fmt: skip
    formats = {
        open_checkpoint(stage).record.stages[-1].name: open_checkpoint(stage).entries["norm.weight"].dtype
        for stage in stages_folder().iterdir()
        if stage.is_dir()
    }
    assert formats == {"distill": "F32", "quantize": "BF16"}


def test_more_calibration_text_is_another_stage(tmp_path: Path, caches: Any) -> None:
    caches("one")
    for sequences in (2, 20):
        prune = {"prune": {"method": "flap", "remove": 0.1, "compensate": True}}
        calibration = {"sequences": sequences, "length": 48}
        compress("stories260k", tmp_path / str(sequences), {
            "calibration": calibration, "evaluation": {"documents": 1, "truncate": 24}, "stages": [prune],
        })  # fmt: skip
    assert contents(tmp_path / "2")["model.safetensors"] != contents(tmp_path / "20")["model.safetensors"]


def test_a_later_stage_that_changes_keeps_the_work_before_it(tmp_path: Path, caches: Any) -> None:
    llama(tmp_path / "model", num_hidden_layers=1)
    caches("one")
    compress(tmp_path / "model", tmp_path / "a", ALL_FOUR)
    before = {folder.name for folder in stages_folder().iterdir() if folder.is_dir()}
    said: list[str] = []
    other = {**ALL_FOUR, "stages": [*ALL_FOUR["stages"][:3], {"quantize": {"linears": "int8", "embeddings": False}}]}
    compress(tmp_path / "model", tmp_path / "b", other, lambda what, *_: said.append(what))
    after = {folder.name for folder in stages_folder().iterdir() if folder.is_dir()}
    assert before < after and len(after - before) == 2  # quantize and calibrate
    assert not any(what.startswith(("prune", "distill")) for what in said)


@pytest.mark.real
def test_a_run_killed_ten_times_gives_the_bytes_of_one_that_was_not(tmp_path: Path, caches: Any) -> None:
    code = (
        "import sys; from moesaic.compress.pipeline import compress\n"
        f"compress('stories260k', sys.argv[1], {ALL_FOUR}, lambda *_: print(flush=True))"
    )
    command = [sys.executable, "-c", code]
    caches("unbroken")
    said = subprocess.run([*command, tmp_path / "unbroken"], check=True, capture_output=True).stdout.splitlines()
    caches("broken")
    draw, kills = random.Random(1), 0
    while kills < 10 and not (tmp_path / "broken").exists():
        with subprocess.Popen([*command, tmp_path / "broken"], stdout=subprocess.PIPE) as child:
            for _ in range(draw.randrange(2, len(said) // 2)):
                assert child.stdout and child.stdout.readline() is not None
            child.kill()
        kills += child.returncode == -signal.SIGKILL
    if not (tmp_path / "broken").exists():
        subprocess.run([*command, tmp_path / "broken"], check=True, stdout=subprocess.DEVNULL)
    assert contents(tmp_path / "broken") == contents(tmp_path / "unbroken") and kills > 1
