"""The stage `moefy` with neurons grouped by chance: what a split is worth shows beside it."""

from collections.abc import Iterator
from dataclasses import dataclass

from ...compress.calibration import Calibration
from ...compress.material import Workshop
from ...compress.moefy.cluster import Split
from ...compress.moefy.stage import MoefyStage
from ...models.checkpoint import Checkpoint
from ...models.spec import TransformerSpec
from ..retention.random_split import random_split


@dataclass(frozen=True, slots=True)
class RandomExpertsStage(MoefyStage):
    """No recipe names it; the settings' split is left open, and no text is read for it."""

    name = "moefy by chance"
    sources = ("bench/controls/random_experts.py", "bench/retention/random_split.py")

    def passes(self, spec: TransformerSpec, calibration: Calibration) -> float:
        return 0

    def memory(self, original: int, planned: int, spec: TransformerSpec, calibration: Calibration) -> int:
        return 0

    def splits(self, source: Checkpoint, workshop: Workshop) -> Iterator[Split]:
        return self.by_weights(source, workshop, random_split)
