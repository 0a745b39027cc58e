"""A mixture of experts: fewer of them at a lower tier, a row the same alone and beside others, and charged by them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from family_cases import Case
from torch import Tensor

from moesaic.compress.pipeline import compress
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.compute import Compute, OperatingPoints, Whole
from moesaic.models.errors import CheckpointError
from moesaic.models.ffn.mixture import MixtureFFN
from moesaic.models.spec import FFNSpec, MixtureSpec

HIDDEN, WIDTH = 12, 8
RECIPE: dict[str, Any] = {
    "calibration": {"sequences": 6, "length": 32}, "evaluation": {"documents": 1, "truncate": 24},
    "stages": [{"moefy": {"tiers": {"high": 0.8, "low": 0.5}}}],
}  # fmt: skip


def mixture(normalised: bool = False) -> MixtureFFN:
    """Five experts, of which a token takes four in full, two at tier 1 and one at tier 2."""
    torch.manual_seed(0)
    ffn = MixtureFFN(HIDDEN, FFNSpec(WIDTH, "silu", True, mixture=MixtureSpec(5, 4, normalised)), 3)
    for value in ffn.parameters():
        value.data.normal_()
    ffn.thresholds = torch.tensor([4.0, 2.0, 1.0])
    ffn.prepare()
    return ffn.requires_grad_(False)


def one_by_one(ffn: MixtureFFN, x: Tensor, taken: int) -> Tensor:
    """The same for one token, [hidden], by its definition."""
    chances = torch.softmax(ffn.choice(x), -1)
    best = chances.argsort(descending=True)[:taken]
    whole = chances[best].sum() if ffn.normalised else 1.0
    experts = list(ffn.experts)
    made = [chances[i] / whole * experts[int(i)](x.unsqueeze(0))[0] for i in best]
    return torch.stack(made).sum(0)


def at(ffn: MixtureFFN, x: Tensor, points: list[float]) -> tuple[Tensor, Compute]:
    compute = Compute.of(OperatingPoints(points, x.device), Whole(float(ffn.whole_bytes), ffn.width))
    return ffn(x, compute), compute


@pytest.mark.parametrize("normalised", [False, True])
def test_rows_at_other_points_take_as_many_experts_as_their_tier(normalised: bool) -> None:
    ffn, x = mixture(normalised), torch.randn(5, 3, HIDDEN)
    points, taken = [0.0, 1.0, 2.0, 0.5, 1.5], [4, 2, 1, 3, 2]
    found, _ = at(ffn, x, points)
    for row, count in enumerate(taken):
        expected = torch.stack([one_by_one(ffn, token, count) for token in x[row]])
        assert torch.allclose(found[row], expected, atol=1e-5)


def test_a_row_beside_others_is_what_it_is_alone() -> None:
    ffn, x = mixture(), torch.randn(3, 1, HIDDEN)
    together, _ = at(ffn, x, [0.0, 1.0, 2.0])
    alone = torch.cat([at(ffn, x[i : i + 1], [float(i)])[0] for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-6)


def test_a_row_is_charged_for_the_choice_and_the_experts_that_it_takes() -> None:
    ffn = mixture()
    _, compute = at(ffn, torch.randn(3, 2, HIDDEN), [0.0, 1.0, 2.0])
    expert = 3 * WIDTH * HIDDEN * 4
    whole = 5 * HIDDEN * 4 + 4 * expert
    read = [1.0, (5 * HIDDEN * 4 + 2 * expert) / whole, (5 * HIDDEN * 4 + expert) / whole]
    assert [share for share, _ in compute.spent.shares(2)] == pytest.approx(read)
    assert [neurons for _, neurons in compute.spent.shares(2)] == [1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("layers.*.ffn.mixture.active", 9, "a token takes 9 of 6 experts"),
        ("layers.*.ffn.mixture.num_experts", 1 << 30, "asks for"),
        ("rope.rotated", 7, "7 values of a head turn, which has 8"),
        ("layers.0.norms", "around", "it must be one of before, after, both"),
    ],
)
def test_a_record_that_no_model_can_have_is_refused(path: str, value: Any, words: str, tmp_path: Path) -> None:
    Case("olmoe", {"num_experts": 6, "num_experts_per_tok": 4}).build(tmp_path)
    record = {"spec": {path: value}, "stages": [], "files": {}, "recipe_sha256": "", "tiers": []}
    (tmp_path / "moesaic.json").write_text(json.dumps({"format": 4, **record}))
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(tmp_path)


def test_a_tier_is_the_number_of_experts_that_comes_nearest_to_its_share(tmp_path: Path) -> None:
    Case("olmoe", {"num_experts": 6, "num_experts_per_tok": 4}).build(tmp_path / "model")
    compress(tmp_path / "model", tmp_path / "out", RECIPE)
    checkpoint = open_checkpoint(tmp_path / "out")
    model = load(tmp_path / "out", tier="low")
    tables = [each.thresholds for each in model.modules() if isinstance(each, MixtureFFN)]
    assert [table.tolist() for table in tables if table is not None] == [[4.0, 3.0, 2.0]] * 3
    high, low = checkpoint.record.tiers
    assert 0.7 < high.bytes_share < 0.8 and 0.48 < low.bytes_share < 0.56 and low.calibrated["neurons_share"] == 0.5
    assert low.measured["perplexity"] > 0 and checkpoint.dial.operating_point(None, low.bytes_share) == pytest.approx(2)
