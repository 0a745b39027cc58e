"""What the files below bench/results/ hold, looked up by name. Nothing is rounded here, and a missing figure raises."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ...evaluate.statistics import Comparison, compare_means, compare_perplexities
from ..classification import KIND as CLASSIFICATION
from ..headings import KIND as HEADINGS
from ..load.run import KIND, Report
from ..peers.same_gguf import KIND as SAME_FILE
from ..peers.same_tokens import KIND as SAME
from ..peers.texts import KIND as WHOLE
from ..served.run import KIND as SERVED

RESULTS = Path(__file__).resolve().parents[1] / "results"
PERFECT = "perfect"
UNTAUGHT = ", untaught"
LATER = "-later"
_SAME = ("model", "text", "documents", "length", "calibration_text", "calibration_tokens", "seed")


@cache
def result(name: str) -> Any:
    """The content of a JSON file, by its path below bench/results/ without the suffix."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def loads() -> dict[str, Report]:
    """What `moesaic bench serve` measured, by the name of the file below load/; none until there is one."""
    return _of_kind("load", KIND)


def kept_as_served() -> dict[str, Report]:
    """What `moesaic bench retention` measured, by the name of the file below served/; none until there is one."""
    return _of_kind("served", SERVED)


def whole_calls() -> dict[str, dict[str, Any]]:
    """What bench/peers/texts.py measured, by the name of the file below peers/; none until there is one."""
    return _of_kind("peers", WHOLE)


def same_tokens() -> dict[str, dict[str, Any]]:
    """The same of what bench/peers/same_tokens.py compared."""
    return _of_kind("peers", SAME)


def same_files() -> dict[str, dict[str, Any]]:
    """The same of what bench/peers/same_gguf.py compared."""
    return _of_kind("peers", SAME_FILE)


def classifications() -> dict[str, Report]:
    """What bench/classification.py measured, by the name of the file below evaluation/; none until there is one."""
    return _of_kind("evaluation", CLASSIFICATION)


def headings() -> dict[str, Report]:
    """What bench/headings.py measured, by the name of the file below evaluation/; none until there is one."""
    return _of_kind("evaluation", HEADINGS)


def encoder_runs() -> dict[str, Report]:
    """What methods keep of models with an encoder, by the folder below retention/; none until there is one. A folder
    NAME-later has more methods on the same documents, or some of them anew. Raises ValueError for other documents.
    """
    files = sorted(RESULTS.glob("retention/*/encoder.json"))
    found = {file.parent.name: json.loads(file.read_text()) for file in files}
    for name in [name for name in found if name.endswith(LATER)]:
        later, first = found.pop(name), found[name.removesuffix(LATER)]
        if any(later[key] != first[key] for key in _SAME):
            raise ValueError(f"{name} was scored on other documents than {name.removesuffix(LATER)}")
        anew = {(point["method"], point["share"]) for point in later["points"]}
        kept = [point for point in first["points"] if (point["method"], point["share"]) not in anew]
        first |= {"points": kept + later["points"], "later": later}
    return found


def _of_kind(folder: str, kind: str) -> dict[str, Report]:
    found = {file.stem: json.loads(file.read_text()) for file in sorted(RESULTS.glob(f"{folder}/*.json"))}
    return {name: report for name, report in found.items() if report.get("kind") == kind}


@dataclass(frozen=True, slots=True)
class Figure:
    """A ratio with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, comparison: Comparison) -> "Figure":
        return cls(comparison.ratio, comparison.ratio_interval.low, comparison.ratio_interval.high)


@dataclass(frozen=True, slots=True)
class Kept:
    """A method at the share that it was asked for: bytes read, and top-1 and perplexity relative to another's.

    whole: of the bytes of all weights that a token reads, head and all, where that was counted.
    """

    method: str
    share: float
    bytes: float
    top1: Figure
    perplexity: Figure
    whole: float = math.nan


class Curves:
    """Points of one or more runs on the same windows; of a point that several have the first run's is taken."""

    def __init__(self, dense: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> None:
        self._dense = dense
        self._points: dict[tuple[str, float], Mapping[str, Any]] = {}
        for point in points:
            self._points.setdefault((point["method"], point["share"]), point)
        self.tokens = sum(dense["tokens"])
        self.methods = len({method for method, _ in self._points})

    def names(self) -> list[str]:
        """The methods, as they were measured."""
        return list(dict.fromkeys(method for method, _ in self._points))

    def kept(self, method: str, share: float) -> Kept | None:
        """What a method kept beside the dense model; None where it has no figure at this share."""
        point = self._points[method, share]
        return None if point["reason"] else self._beside(point, self._dense)

    def against(self, method: str, other: str, share: float) -> Kept:
        """What a method kept beside another, paired over the windows."""
        return self._beside(self._points[method, share], self._points[other, share])

    def divergence(self, method: str, other: str, share: float) -> Figure:
        """A method's KL divergence from the dense model beside another's at as many bytes, paired over the windows.

        The other's is brought to the bytes that the method read along its logarithm, a straight line from this share to
        the nearest one that it has.
        """
        mine, theirs = self._points[method, share], self._points[other, share]
        shares = [each for name, each in self._points if name == other and each != share]
        near = self._points[other, min(shares, key=lambda each: abs(each - share))]
        slope = math.log(sum(near["kl"]) / sum(theirs["kl"])) / (near["bytes_share"] - theirs["bytes_share"])
        moved = math.exp(slope * (mine["bytes_share"] - theirs["bytes_share"]))
        found = Figure.of(compare_means(mine["kl"], theirs["kl"], mine["tokens"]))
        return Figure(found.value / moved, found.low / moved, found.high / moved)

    @property
    def measured(self) -> list[tuple[str, float]]:
        """Every method and share that has a figure."""
        return [key for key, point in self._points.items() if not point["reason"]]

    def best_tile(self, share: float) -> Kept:
        """The experts of 16 neurons and more, with a router that can be had, that keep most of top-1."""
        found = [point for (_, each), point in self._points.items() if each == share and _is_tile(point)]
        return self._beside(max(found, key=lambda point: sum(point["correct"])), self._dense)

    def _beside(self, point: Mapping[str, Any], other: Mapping[str, Any]) -> Kept:
        top1 = Figure.of(compare_means(point["correct"], other["correct"], point["tokens"]))
        perplexity = Figure.of(compare_perplexities(point["nats"], other["nats"], point["tokens"]))
        whole = point.get("whole_share", math.nan)
        return Kept(point["method"], point["share"], point["bytes_share"], top1, perplexity, whole)


def _is_tile(point: Mapping[str, Any]) -> bool:
    routed = point["group"] == "experts" and PERFECT not in point["method"]
    return routed and not point["reason"]


@cache
def curves(*folders: str) -> Curves:
    """The runs of these folders below retention/. Raises ValueError where they were not scored on the same windows."""
    runs = [result(f"retention/{folder}/curves") for folder in folders]
    if any(_scored(run) != _scored(runs[0]) for run in runs):
        raise ValueError(f"{', '.join(folders)} were scored on different windows")
    return Curves(runs[0]["dense"], [point for run in runs for point in run["points"]])


@cache
def pooled(*folders: str) -> Curves:
    """The windows of several runs together: what all of them measured."""
    runs = [result(f"retention/{folder}/curves") for folder in folders]
    parts = [{(point["method"], point["share"]): point for point in run["points"]} for run in runs]
    shared = [key for key in parts[0] if all(key in part for part in parts)]
    return Curves(_joined([run["dense"] for run in runs]), [_joined([part[key] for part in parts]) for key in shared])


@cache
def taught(folder: str, before: str) -> Curves:
    """The points of a model that learned, its int8 too, beside the int8 of the model before it, whose own points have
    UNTAUGHT in their names. Raises ValueError where they were not scored on the same windows.
    """
    after, original = (result(f"retention/{each}/curves") for each in (folder, before))
    if any(after[key] != original[key] for key in ("text", "windows", "length", "seed", "axis")):
        raise ValueError(f"{folder} and {before} were scored on different windows")
    untaught = [{**point, "method": point["method"] + UNTAUGHT} for point in original["points"]]
    return Curves(original["dense"], [after["dense"], *after["points"], *untaught])


def _scored(run: Mapping[str, Any]) -> list[Any]:
    return [run["text"], run["length"], *(run["dense"][key] for key in ("nats", "correct", "tokens"))]


def _joined(points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    windows = {key: [each for point in points for each in point[key]] for key in ("nats", "correct", "tokens")}
    shares = {
        key: sum(point[key] * sum(point["tokens"]) for point in points) / sum(windows["tokens"])
        for key in ("bytes_share", "whole_share") if key in points[0]
    }  # fmt: skip
    return {**points[0], **windows, **shares}


class RecipeResult:
    """report.json of a compression."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    @property
    def size(self) -> float:
        """Bytes of weights on disk, of the original's."""
        return float(self.values["stages"][-1]["weight_bytes"] / self.values["original"]["weight_bytes"])

    def tier(self, name: str) -> Kept:
        """What a tier kept beside the original; shares are of its FFN in the format of the result."""
        tier = next(each for each in self.values["tiers"] if each["name"] == name)
        beside = tier["against_original"]
        top1, perplexity = (Figure(each["ratio"], **each["ratio_interval"]) for each in map(beside.get, _BOTH))
        return Kept(name, tier["share"], tier["bytes_share"], top1, perplexity)

    def control(self, name: str, tier: str) -> Mapping[str, Any]:
        """A control beside a tier: its bytes_share and relative_top1 among others."""
        found: Mapping[str, Any] = next(
            each for each in self.values["controls"] if (each["name"], each["tier"]) == (name, tier)
        )
        return found

    def speed(self, name: str, batch: int) -> Mapping[str, float]:
        """Tokens per second of a tier, and times the full tier's."""
        rows = self.values["speed"]["rows"]
        found: Mapping[str, float] = next(row for row in rows if (row["name"], row["batch"]) == (name, batch))
        return found

    def stage(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = next(each for each in self.values["stages"] if each["name"] == name)
        return found


_BOTH = ("top1_accuracy", "perplexity")


@cache
def recipe(name: str) -> RecipeResult:
    """A folder below compress/."""
    return RecipeResult(result(f"compress/{name}/report"))
