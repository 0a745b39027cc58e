"""The report's picture: what is kept for the bytes that are read, and how each layer is used."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...evaluate.compare import TOP1
from ...evaluate.files import as_png

_STYLES = {  # name of a control -> colour, marker
    "static pruning": ("#8a8f98", "s"),
    "static pruning, distilled": ("#5d6470", "D"),
    "static pruning by magnitude": ("#b3b7bd", "v"),
    "static pruning by chance": ("#d5d8dc", "x"),
    "experts of 64": ("#d9a441", "^"),
    "random experts of 64": ("#ead1a0", "<"),
    "only moefy": ("#4a7fb5", "P"),
    "only moefy with quantize": ("#4a7fb5", "P"),
    "perfect router": ("#7a4fa3", "*"),
    "random router": ("#cbb8db", "+"),
}
_ROOM = 0.3  # how far below the recipe's own tiers the picture goes
_OURS = "#0f7b6c"
_SHADES = ("#0f7b6c", "#d9a441", "#7a4fa3", "#c2553d", "#4a7fb5", "#8a8f98")
Entry = Mapping[str, Any]


def draw(report: Mapping[str, Any]) -> bytes:
    """A PNG of two panels, made of a report's plain values. Needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    _kept(left, report)
    _layers(right, [tier for tier in report["tiers"] if tier["calibrated"].get("active_by_layer")])
    figure.suptitle(f"{report['model']}: {report['evaluation']['tokens']:,} tokens")
    return as_png(figure)


def _kept(panel: Any, report: Mapping[str, Any]) -> None:
    """Top-1 accuracy relative to the original against the share of the bytes that tiers govern, with 95 % intervals."""
    panel.axhline(1.0, color="#cccccc", linewidth=1)
    bottom = max(0.0, min((each["relative_top1"] or 0.0 for each in report["tiers"]), default=0.0) - _ROOM)
    for name, (colour, marker) in _STYLES.items():
        found = [each for each in report["controls"] if each["name"] == name and each.get("relative_top1") is not None]
        seen = [each for each in found if each["relative_top1"] >= bottom]
        _line(panel, name, seen, colour, marker, " (others below)" if len(seen) < len(found) else "")
    _line(panel, "tiers", report["tiers"], _OURS, "o")
    panel.set_ylim(bottom=bottom)
    panel.set_xlabel(f"share of the {report['ffn_format']} bytes of the {governed(report)} that a token reads")
    panel.set_title("top-1 accuracy, relative to the original", loc="left", fontsize=11)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8)


def _line(panel: Any, name: str, entries: Sequence[Entry], colour: str, marker: str, note: str = "") -> None:
    points = sorted(
        (e["bytes_share"], e["relative_top1"], *_reach(e)) for e in entries if e["relative_top1"] is not None
    )
    if not points and note:
        panel.plot([], [], label=f"{name} (below)", color=colour, marker=marker)
    if points:
        x, y, below, above = (list(column) for column in zip(*points, strict=True))
        panel.errorbar(
            x, y, yerr=[below, above], label=name + note, color=colour, marker=marker, capsize=2, linewidth=1.4
        )


def _reach(entry: Entry) -> tuple[float, float]:
    """How far the interval goes below and above the point; (0, 0) where there is none."""
    interval = entry["against_original"].get(TOP1, {}).get("ratio_interval", {})
    low, high = interval.get("low"), interval.get("high")
    if low is None or high is None:
        return 0.0, 0.0
    return max(0.0, entry["relative_top1"] - low), max(0.0, high - entry["relative_top1"])


def _layers(panel: Any, tiers: Sequence[Entry]) -> None:
    """The part of each layer's experts that a token computes, on the calibration text."""
    panel.set_title("share of each layer's experts that is computed", loc="left", fontsize=11)
    panel.set_xlabel("layer")
    panel.set_ylim(0, 1.02)
    panel.xaxis.get_major_locator().set_params(integer=True)
    for i, tier in enumerate(tiers):
        shares = tier["calibrated"]["active_by_layer"]
        panel.plot(range(len(shares)), shares, marker=".", color=_SHADES[i % len(_SHADES)], label=tier["name"])
    if tiers:
        panel.legend(frameon=False)
    else:
        panel.text(0.5, 0.5, "this recipe makes no tiers", ha="center", transform=panel.transAxes, color="#666666")
    panel.spines[["top", "right"]].set_visible(False)


def governed(report: Mapping[str, Any]) -> str:
    """What tiers choose among; reports from before there was a choice do not say it."""
    return str(report.get("governed", "FFNs"))
