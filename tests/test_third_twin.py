"""A third kind of sparse FFN joins by its class, a method that sets its tiers, and its name in the registries."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from builders import edit_json
from torch import Tensor

from moesaic.compress.moefy.methods import TIER_SETTERS
from moesaic.compress.moefy.settings import MoefySettings
from moesaic.compress.moefy.tiers import Decided, TierSetter, TierWalk, twins_of
from moesaic.compress.pipeline import compress
from moesaic.engine.llm import LLM
from moesaic.kernels.plane_ffn import tile_scores
from moesaic.models import spec
from moesaic.models.checkpoint import load, open_checkpoint
from moesaic.models.compute import OperatingPoints, Prices, Spending, Whole
from moesaic.models.errors import CheckpointError
from moesaic.models.ffn.planes import PlaneFFN
from moesaic.models.ffn.registry import SPARSE_FFNS
from moesaic.models.ffn.sparse import SparseFFN
from moesaic.models.linear import dense_weight
from moesaic.models.record import TierRecord

MAGNITUDE = "magnitude"
MOEFY = {"split": "weight_kmeans", "expert_size": 9, "tiers": {"half": 0.75, "low": 0.7}}


class MagnitudeFFN(SparseFFN):
    """Computes gate and up of every neuron, and reads the rows of down of those tiles that would give much."""

    worth: Tensor  # fp32 [width], the norms of down's columns

    def __init__(self, hidden_size: int, spec: spec.FFNSpec, num_tiers: int) -> None:
        super().__init__(hidden_size, spec, num_tiers)
        self.register_buffer("worth", torch.empty(spec.width, dtype=torch.float32))

    @property
    def prices(self) -> Prices:
        down = self.down.weight.nbytes
        return Prices(self.whole_bytes - down, (down / self.width,))

    def begin(self) -> None:
        self.worth = dense_weight(self.down).norm(dim=0)

    def scores(self, x: Tensor) -> Tensor:
        return tile_scores(self.hidden(x).abs() * self.worth, self.tile)

    def sparse(self, x: Tensor, thresholds: Tensor, together: bool) -> tuple[Tensor, Tensor]:
        active = (self.scores(x) > thresholds[:, :1]).repeat_interleave(self.tile, dim=-1)[:, : self.width]
        return self.down(self.hidden(x) * active), active.sum(-1).unsqueeze(0)


class MagnitudeTiers(TierSetter[MagnitudeFFN]):
    kind = MagnitudeFFN

    @staticmethod
    def passes(tiers: int) -> float:
        return tiers

    def prepare(self) -> dict[str, float]:
        return {}

    def set_tier(self, operating_point: int, tier: TierRecord) -> TierRecord:
        def decide(layer: int, given: Sequence[Tensor]) -> Decided:
            ffn, scores = self.ffns[layer], [self.ffns[layer].scores(x) for x in given]
            flat, down = torch.cat([each.flatten() for each in scores]), ffn.whole_bytes - ffn.fixed_bytes
            threshold = float(flat.quantile(1 - (tier.share * ffn.whole_bytes - ffn.fixed_bytes) / down))
            ffn.thresholds[operating_point] = threshold

            def bytes_at(threshold: float) -> float:
                return ffn.fixed_bytes + float((flat > threshold).float().mean()) * down

            return Decided([each > threshold for each in scores], 0.5, bytes_at)

        turn = TierWalk(self, operating_point, self.workshop.calibration.windows)
        return turn.run(tier, decide, self.teller(tier.name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("third") / "model"


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines that a third twin adds; the recipe's own would be its name in MoefySettings."""
    monkeypatch.setitem(SPARSE_FFNS, MAGNITUDE, MagnitudeFFN)
    monkeypatch.setitem(TIER_SETTERS, MAGNITUDE, MagnitudeTiers)
    monkeypatch.setitem(spec._CHOICES, "router", (*spec.ROUTERS, MAGNITUDE))
    monkeypatch.setattr(MoefySettings, "routed_by", MAGNITUDE)


@pytest.fixture
def made(joined: None, folder: Path) -> Path:
    if not folder.exists():
        compress("stories260k", folder, {
            "calibration": {"sequences": 12, "length": 48}, "evaluation": {"documents": 1, "truncate": 24},
            "stages": [{"moefy": MOEFY}],
        })  # fmt: skip
    return folder


def test_it_is_calibrated_written_and_loaded(made: Path) -> None:
    ffns = list(twins_of(load(made), MagnitudeFFN))
    assert len(ffns) == 5 and all(torch.equal(ffn.worth, dense_weight(ffn.down).norm(dim=0)) for ffn in ffns)
    assert [tier.name for tier in open_checkpoint(made).record.tiers] == ["half", "low"]
    for tier in open_checkpoint(made).record.tiers:
        assert tier.bytes_share == pytest.approx(tier.share, abs=0.01)


def test_it_is_served_at_its_tiers_and_between_them(made: Path) -> None:
    llm = LLM(made)
    for share in (1.0, 0.9, 0.75, 0.72):
        (answer,) = llm.generate(["Once upon a time"], share=share, temperature=0, max_new_tokens=16)
        assert answer.usage.bytes_share == pytest.approx(share, abs=0.04)


def test_its_rows_share_a_batch_with_rows_of_other_tiers(made: Path) -> None:
    model, ids = load(made), torch.randint(3, 250, (3, 20), generator=torch.Generator().manual_seed(1))
    together = model(ids, compute=model.compute_of([0, 1, 2]))
    for row in range(3):
        alone = model(ids[row : row + 1], compute=model.compute_of([row]))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-4, atol=1e-4)


def test_a_method_takes_no_twin_of_another(made: Path) -> None:
    with pytest.raises(TypeError, match="MagnitudeFFN is calibrated by another method than PlaneFFN"):
        list(twins_of(load(made), PlaneFFN))


def test_where_it_has_left_its_models_are_refused_with_what_there_is(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(made, tmp_path / "copy")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="router is 'magnitude', it must be one of none, norm_regression, bit_pl"):
        open_checkpoint(copy)
    values = dict(open_checkpoint("stories260k").record.spec)
    edit_json(copy / "moesaic.json", spec={**values, "num_tiers": 3, "layers.*.ffn.experts.size": 9})
    with pytest.raises(CheckpointError, match="by a router, one of norm_regression, bit_planes, and there is none"):
        open_checkpoint(copy)


def test_an_account_has_a_price_for_each_part_that_a_twin_counts() -> None:
    spent = Spending(OperatingPoints([0, 1], torch.device("cpu")), Whole(100, 10))
    spent.note_sparse(Prices(5.0, (1.0, 2.0, 0.5)), torch.tensor([[2, 1], [1, 1], [4, 0]]), 2)
    assert spent.shares(2) == [(1.0, 1.0), ((10.0 + 3.0 + 4.0 + 2.0) / 200, 3.0 / 20)]
