"""Every number of a moesaic.json may be anything: it is refused in a sentence, or costs nothing."""

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from moesaic.cli.main import main
from moesaic.compress.pipeline import compress
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.errors import CheckpointError, MoesaicError

INT8 = {"quantize": {"linears": "int8"}}
TIERS = {"high": 0.8, "low": 0.6}
STAGES: dict[str, list[dict[str, Any]]] = {
    "pruned": [{"prune": {"remove": 0.2}}],
    "planes": [{"moefy": {"bits": 3, "tiers": TIERS}}, INT8],
    "tiles": [{"moefy": {"expert_size": 8, "router": "bit_planes", "bits": 3, "tiers": TIERS}}, INT8],
    "routed": [{"moefy": {"expert_size": 8, "router_width": 4, "tiers": TIERS}}],
}
VALUES: list[Any] = [10**9, -1, 10**400, float("nan"), "x", []]
Place = tuple[str | int, ...]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("made")
    texts = {"calibration": {"sequences": 16, "length": 64}, "evaluation": {"documents": 1, "truncate": 40}}
    for name, stages in STAGES.items():
        compress("stories260k", folder / name, {**texts, "stages": stages}, rival=False)
    return {name: folder / name for name in STAGES}


def numbers(value: Any, path: Place = ()) -> Iterator[Place]:
    """Where numbers stand; of a list in its first place."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value[:1]):
            yield from numbers(each, (*path, key))
    elif isinstance(value, int | float):
        yield path


def changed(folder: Path, path: Place, value: Any) -> None:
    record = json.loads((folder / "moesaic.json").read_text())
    place = record
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (folder / "moesaic.json").write_text(json.dumps(record))


def used(folder: Path) -> None:
    """Opened, and run at the lowest tier."""
    checkpoint = open_checkpoint(folder)
    assert checkpoint.dial.shares
    load(folder, tier=checkpoint.tiers[-1])(torch.tensor([[1, 2, 3]]))


@pytest.mark.parametrize("kind", ["pruned", "planes", "routed"])
def test_no_number_of_a_record_hangs_or_crashes(
    made: dict[str, Path], kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (made[kind] / "moesaic.json").read_text()
    shutil.copytree(made[kind], tmp_path / "model")
    for path in numbers(json.loads(whole)):
        for value in VALUES if path[0] != "stages" else VALUES[2:3]:
            (tmp_path / "model" / "moesaic.json").write_text(whole)
            changed(tmp_path / "model", path, copy.copy(value))
            try:
                used(tmp_path / "model")
            except MoesaicError as error:
                assert "\n" not in str(error), path
            assert main(["inspect", str(tmp_path / "model"), "--experts"]) in (0, 2), path
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["planes", "tiles", "routed"])
def test_experts_larger_than_any_ffn_are_refused_at_open(made: dict[str, Path], kind: str, tmp_path: Path) -> None:
    for size in (173, 10**9):
        folder = tmp_path / str(size)
        shutil.copytree(made[kind], folder)
        changed(folder, ("spec", "layers.*.ffn.experts.size"), size)
        with pytest.raises(CheckpointError, match=f"experts.size is {size:,}, and the widest FFN has 172 neurons"):
            open_checkpoint(folder)


def test_a_record_of_absurd_size_is_not_read(made: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(made["pruned"], tmp_path / "model")
    with (tmp_path / "model" / "moesaic.json").open("ab") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(CheckpointError, match="it has more than 67,108,864 bytes"):
        open_checkpoint(tmp_path / "model")
