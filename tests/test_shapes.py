"""Models of random weights: they run, they are labelled, and they are never scored."""

from pathlib import Path

import pytest
import torch

from moesaic.bench.report import BenchPlan, run_bench
from moesaic.bench.shapes import SHAPES, is_shape, write_random_model, write_shape
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.errors import SetupError
from moesaic.models.families.config import Config
from moesaic.models.families.registry import family_of

TINY = {**SHAPES["opt-1.3b"], "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "vocab_size": 300}
TINY = {**TINY, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
PARAMETERS = {"gpt2-small": 124.4e6, "opt-1.3b": 1315.8e6, "llama-3.2-1b": 1235.8e6, "llama-3-8b": 8030.3e6}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_has_the_parameters_of_its_namesake(name: str) -> None:
    from moesaic.models.transformer import Transformer

    with torch.device("meta"):
        model = Transformer(family_of(SHAPES[name]).spec(Config(SHAPES[name])))
    count = sum(value.numel() for value in model.state_dict().values())
    assert count == pytest.approx(PARAMETERS[name], rel=0.002)


def test_the_same_seed_gives_the_same_labelled_model(tmp_path: Path) -> None:
    for name in "ab":
        write_random_model(TINY, tmp_path / name)
    ids = torch.arange(10).unsqueeze(0)
    assert torch.equal(load(tmp_path / "a")(ids), load(tmp_path / "b")(ids))
    assert is_shape(open_checkpoint(tmp_path / "a").config)


def test_a_report_on_random_weights_has_speeds_and_no_quality(tmp_path: Path) -> None:
    write_random_model(TINY, tmp_path / "tiny")
    plan = BenchPlan(str(tmp_path / "tiny"), tmp_path / "out", ("retention",), quick=True, threads=1)
    report = run_bench(plan, lambda what, done, total: None)
    assert report["random_weights"] and "retention" not in report


def test_an_unknown_shape_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="did you mean 'opt-1.3b'"):
        write_shape("opt-1.2b", tmp_path / "out")
