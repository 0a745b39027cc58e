"""An operation in one shape beside its peers: what every bench/benchmark_NAME.py gives, and what is told of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from ...kernels.cost import Cost
from ..rounds import CANNOT_RUN, DEVICE, Round, interleaved, limit, quiet

SECONDS = 0.1  # of measuring, for each contestant
THREADS = 1  # a second thread that others interrupt keeps the first one waiting
NO_GPU = "only a GPU runs it, and there is none here"
Prepare = Callable[[], Round]


@dataclass(frozen=True)
class Point:
    """One shape. rounds: what prepares each contestant, by its name: ours first, then the peers.

    cost: of one call of ours. A peer that cannot run raises one of CANNOT_RUN while it is prepared.
    """

    name: str
    cost: Cost
    rounds: Mapping[str, Prepare]

    @property
    def ours(self) -> str:
        return next(iter(self.rounds))


def on_gpu(prepare: Prepare) -> Prepare:
    """The same, which raises NotImplementedError where there is no GPU."""

    def prepared() -> Round:
        if DEVICE == "cpu":
            raise NotImplementedError(NO_GPU)
        return prepare()

    return prepared


def measured(point: Point, seconds: float = SECONDS) -> dict[str, Any]:
    """Times all contestants in turns, in plain values.

    ratios: by peer, how many times as long ours took, the median over rounds. skipped: who cannot run, and why; where
    that is ours, nothing is measured. limit_microseconds: what a plain read of the bytes of a call takes.
    """
    with quiet(THREADS):
        runs, skipped = prepared(point)
        found = interleaved(runs, seconds) if point.ours in runs else {}
        told = {
            "point": point.name, "ours": point.ours, "bytes": point.cost.bytes, "flops": point.cost.flops,
            "limit_microseconds": point.cost.bytes / limit() * 1e6,
            "microseconds": {name: min(took) * 1e6 for name, took in found.items()},
        }  # fmt: skip
    ours = found.pop(point.ours, [])
    ratios = {name: median(a / b for a, b in zip(ours, theirs, strict=True)) for name, theirs in found.items()}
    return {**told, "ratios": ratios, "skipped": skipped}


def prepared(point: Point) -> tuple[dict[str, Round], dict[str, str]]:
    """Who can run, ready to, and of the others why not; nobody else is prepared where ours cannot."""
    runs, skipped = {}, {}
    for name, prepare in point.rounds.items():
        try:
            runs[name] = prepare()
        except CANNOT_RUN as error:
            skipped[name] = (str(error) or type(error).__name__).splitlines()[0]
            if name == point.ours:
                break
    return runs, skipped


def timed(benchmark: Any, point: Point) -> None:
    """What a test of pytest-benchmark does with a point: its table has rounds of ours over all copies, `extra_info`
    what `measured` tells. Skipped, with the reason, where ours cannot run.
    """
    import pytest

    benchmark.group = point.name
    with quiet(THREADS):
        runs, skipped = prepared(point)
        if point.ours in skipped:
            pytest.skip(f"{point.ours} cannot run here: {skipped[point.ours]}")
        benchmark.pedantic(runs[point.ours][0], rounds=5)
    benchmark.extra_info.update(measured(point))
