"""Controls in int4: the values of packed weights in floating point, and the bytes that they stand for."""

import json
from pathlib import Path

import pytest
import torch

from moesaic.bench.served.int4 import GPTQ, NEAREST, RECORD, Rounding, main, make_int4
from moesaic.compress.pipeline import compress
from moesaic.models.checkpoint import open_checkpoint, read_tensors

MODEL = "stories260k"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("int4")
    for by in (GPTQ, NEAREST):
        make_int4(MODEL, folder / by, Rounding(by, columns=32, head=8, windows=8))
    return {by: folder / by for by in (GPTQ, NEAREST)}


def weights(path: str | Path) -> dict[str, torch.Tensor]:
    return {name: tensor.float() for name, tensor in read_tensors(open_checkpoint(path))}


@pytest.mark.parametrize("by", [GPTQ, NEAREST])
def test_every_group_of_a_row_has_at_most_sixteen_values(made: dict[str, Path], by: str) -> None:
    linears = [tensor for name, tensor in weights(made[by]).items() if name.startswith("layers.") and tensor.dim() == 2]
    assert linears and all(len(group.unique()) <= 16 for weight in linears for row in weight for group in row.split(32))


def test_what_is_no_linear_stays_as_it_is(made: dict[str, Path]) -> None:
    before, after = weights(MODEL), weights(made[GPTQ])
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before if "norm" in name)


def test_bytes_are_those_of_packed_weights(made: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(MODEL)
    read = 0
    for name, entry in checkpoint.entries.items():
        rows = entry.shape[0]
        if name == "embedding.weight":  # which is the head, in int8 with a scale a row
            read += rows * entry.shape[1] + 4 * rows
        elif len(entry.shape) == 2:
            read += rows * entry.shape[1] // 2 + 2 * rows * -(-entry.shape[1] // 32)
        else:
            read += entry.num_bytes
    assert json.loads((made[GPTQ] / RECORD).read_text())["token_bytes"] == read


def test_int8_weights_are_not_rounded_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compress(
        MODEL,
        tmp_path / "int8",
        {"evaluation": {"documents": 1, "truncate": 24}, "stages": [{"quantize": {"linears": "int8"}}]},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["int4", str(tmp_path / "int8"), str(tmp_path / "out")])
        assert main() == 2
    assert "int8 has int8 weights" in capsys.readouterr().err and not (tmp_path / "out").exists()
