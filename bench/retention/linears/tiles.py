"""Tiles with routers beside graded inputs: a tile of neurons that is foreseen to give too little is skipped, the rest
is graded. Skipping has the price of a byte that grading has, or a multiple of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ....compress.moefy.cluster import Split, balanced_kmeans
from ....compress.moefy.norms import tile_norms
from ....compress.moefy.router import RouterTraining, centroids
from ....models.ffn.dense import FFN as DenseFFN
from ....models.progress import Progress
from ..rivals import NormRegressionRouter
from .graded import mean_fisher
from .matrices import FFN_OUT, Matrix
from .whole_ffn import Neurons, NeuronsAtPrice, neuron_values

Router = Literal["perfect", "norm regression"]


@dataclass(frozen=True)
class Tiles:
    """Those of one layer. down: in the order of tiles, [hidden, width]; unit: what a router's score of 1 stands for.

    router: None for the perfect one.
    """

    split: Split
    down: Tensor
    router: NormRegressionRouter | None
    unit: float = 1.0

    @classmethod
    def of(cls, wide: Matrix, down: Matrix, size: int, router: Router, seed: int) -> "Tiles":
        """By similar rows of the gate, or of up where there is none, and the router that learns what tiles give."""
        rows = _spelled(wide)[: down.num_inputs]
        split = balanced_kmeans(rows, size, seed)
        tiles = cls(split, _spelled(down)[:, split.order], None)
        if router == "perfect":
            return tiles
        norms, first = tiles.norms(down.inputs.float()), centroids(rows[split.order], size)
        learned = NormRegressionRouter.fit(wide.inputs.float(), norms, RouterTraining(seed=seed), first)
        return cls(split, tiles.down, learned, float(norms.square().mean().sqrt()))

    def norms(self, h: Tensor) -> Tensor:
        """Of what each tile gives, from the values of the neurons: [tokens, tiles]."""
        return tile_norms(h[:, self.split.order], self.down, self.split.size)

    @property
    def sizes(self) -> Tensor:
        """Neurons of each tile: the last may be short."""
        return torch.bincount(self.split.labels)

    @property
    def router_bytes(self) -> int:
        return 0 if self.router is None else self.router.num_bytes


@dataclass
class GradedTiles(NeuronsAtPrice):
    """Tiles of `size` neurons with similar rows. One is computed where its squared norm, times what an error costs, is
    worth `ratio` times the price of the bytes that it would read.

    router: perfect (knows the norms that int8 gives, for nothing: a ceiling) or the regression of D2DMoE, in bf16.
    """

    size: int = 16
    router: Router = "perfect"
    ratio: float = 1.0
    seed: int = 0
    group: str = field(default="experts", kw_only=True)
    aimed_on: int = field(default=256, kw_only=True)
    _tiles: list[Tiles] = field(default_factory=list, kw_only=True)

    def __post_init__(self) -> None:
        price = f", skipped at {self.ratio:g} times the price" if self.ratio != 1 else ""
        self.name = self.name or f"tiles of {self.size}, {self.router} router, {self.graded.name}{price}"

    def learn(self, matrices: Sequence[Matrix], progress: Progress) -> None:
        super().learn(matrices, progress)
        layers = [matrix.layer for matrix in matrices if matrix.kind == FFN_OUT]
        self._tiles = []
        for i in layers:
            self._tiles.append(Tiles.of(*self.pair(i), self.size, self.router, self.seed + i))
            progress(f"{self.name}: tiles", i + 1, len(layers))

    def neurons(self, dense: DenseFFN, wide: Matrix, down: Matrix) -> Neurons:
        tiles, into = self._tiles[down.layer], self.graded_form(wide)
        fisher, sizes, labels = float(mean_fisher(down)[0]), tiles.sizes, tiles.split.labels

        def compute(x: Tensor) -> tuple[Tensor, Tensor]:
            graded = into(x, torch.ones(len(x)))
            each = graded.bytes / down.num_inputs
            cost = self.ratio * self.price(each, down).unsqueeze(1) * sizes
            kept = (self._foreseen(tiles, dense, wide, x).square() * fisher > cost)[:, labels]
            read = each * kept.sum(1) + tiles.router_bytes
            return neuron_values(dense, wide, graded.y) * kept, read

        return compute

    def _foreseen(self, tiles: Tiles, dense: DenseFFN, wide: Matrix, x: Tensor) -> Tensor:
        """The norms of what tiles would give, [tokens, tiles]."""
        if tiles.router is not None:
            return tiles.unit * tiles.router.scores(x)
        return tiles.norms(neuron_values(dense, wide, wide.product(x, wide.levels)))


def _spelled(matrix: Matrix) -> Tensor:
    return matrix.levels.float() * matrix.scale.unsqueeze(1)
