"""The curves' picture: top-1 accuracy relative to dense against the bytes read."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...evaluate.files import as_png
from .grid import DRAWN

COLOURS = {
    "graded inputs": "#1f4e9c", "graded inputs, a bound a token": "#b04a8f", "both sides": "#5b8c2a",
    "bit planes": "#0f7b6c", "experts": "#d9a441", "gate": "#7a4fa3", "inputs": "#c2553d", "static pruning": "#8a8f98",
    "fewer bits": "#4a7fb5",
}  # fmt: skip
_FIGURES = {
    "top1_relative": "next-token top-1 accuracy, relative to dense",
    "perplexity_relative": "perplexity, relative to dense int8",
}
FFN = "the FFN's int8 bytes, routing included,"
_MARKERS = "os^vDP*X<>hpd"
_LOWEST = 0.5  # what is drawn of top-1 relative to dense


def draw(report: Mapping[str, Any]) -> bytes:
    """A PNG, made of plain values. Needs matplotlib."""
    return picture(report, DRAWN, FFN, "top1_relative", (_LOWEST, 1.02))


def picture(
    report: Mapping[str, Any], drawn: Sequence[str], whole: str, figure: str, limits: tuple[float, float]
) -> bytes:
    """A PNG of one figure of these methods. whole: what shares are of; limits: what is shown of the figure."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(10, 6), dpi=110, layout="constrained")
    panel = sheet.subplots()
    panel.axhline(1.0, color="#cccccc", linewidth=1)
    markers = iter(_MARKERS * 4)
    for name in drawn:
        found = [each for each in report["points"] if each["method"] == name and not each["reason"]]
        _line(panel, found, next(markers), figure)
    panel.set_ylim(*limits)
    panel.set_xlabel(f"share of {whole} that a token reads")
    panel.set_ylabel(_FIGURES[figure])
    panel.set_title(f"{report['model']}: {report['tokens']:,} tokens", loc="left")
    panel.spines[["top", "right"]].set_visible(False)
    if panel.containers:
        panel.legend(frameon=False, fontsize=8, ncols=2)
    return as_png(sheet)


def _line(panel: Any, points: Sequence[Mapping[str, Any]], marker: str, figure: str) -> None:
    if not points:
        return
    ordered = sorted(points, key=lambda point: point["bytes_share"])
    shares = [point["bytes_share"] for point in ordered]
    kept = [point[figure] for point in ordered]
    values = [each["value"] for each in kept]
    reach = np.array([[max(0.0, each["value"] - each["low"]) for each in kept],
                      [max(0.0, each["high"] - each["value"]) for each in kept]])  # fmt: skip
    perfect = "perfect" in ordered[0]["method"]
    panel.errorbar(
        shares, values, yerr=reach, label=ordered[0]["method"], marker=marker, markersize=5, linewidth=1.4,
        elinewidth=0.7, color=COLOURS[ordered[0]["group"]], linestyle=":" if perfect else "-", alpha=0.9,
    )  # fmt: skip
