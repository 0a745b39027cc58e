"""How weights come into memory: where they will be used, looked at once, and no further than their file."""

from pathlib import Path

import pytest
import torch
from builders import llama

from moesaic.bench.loading import measured
from moesaic.models.checkpoint import open_checkpoint, read_tensors
from moesaic.models.packing import Beside, joined
from moesaic.models.tensor_reader import all_finite

QUERY, KEY, VALUE = (f"layers.0.attention.{each}.weight" for each in ("query", "key", "value"))


def test_weights_of_a_group_are_read_to_where_they_are_packed(tmp_path: Path) -> None:
    llama(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    found = dict(read_tensors(checkpoint, Beside(checkpoint.entries)))
    whole = joined([found[QUERY], found[KEY], found[VALUE]])
    assert whole.data_ptr() == found[QUERY].data_ptr()
    assert torch.equal(whole, torch.cat([dict(read_tensors(checkpoint))[name] for name in (QUERY, KEY, VALUE)]))


def test_weights_that_lie_otherwise_are_copied(tmp_path: Path) -> None:
    llama(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    found = dict(read_tensors(checkpoint, Beside(checkpoint.entries)))
    whole = joined([found[KEY], found[QUERY]])
    assert whole.data_ptr() != found[KEY].data_ptr() and torch.equal(whole, torch.cat([found[KEY], found[QUERY]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf, -torch.inf])
def test_one_value_that_is_not_finite_is_seen(dtype: torch.dtype, value: float) -> None:
    tensor = torch.randn(3, 70_000).to(dtype)
    tensor[0, :2] = torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).min], dtype=dtype)
    assert all_finite(tensor) and all_finite(tensor[:0])
    tensor[2, 69_999] = value
    assert not all_finite(tensor)


def test_the_bench_tells_memory_and_time_beside_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llama(tmp_path)
    num_bytes = open_checkpoint(tmp_path).weight_bytes
    made = {"read": {"seconds": 1.5, "peak": 1}, "load": {"seconds": 2.0, "peak": 1.05 * num_bytes}}
    monkeypatch.setattr("moesaic.bench.loading._in_a_process", lambda way, folder: made[way])
    found = measured(tmp_path, 2)
    assert found["cached"] == {"read_seconds": 1.5, "load_seconds": 2.0, "speed_of_reading": 0.75} == found["from_disk"]
    assert found["peak_of_weights"] == 1.05
