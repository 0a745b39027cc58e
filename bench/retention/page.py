"""The curves as a table, as JSON, as one picture, and as a page that holds all of it."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...evaluate.files import as_png, html_image, html_notes, html_page, html_section, html_table
from ...evaluate.statistics import Comparison, SeedSpread, compare_means, compare_perplexities
from ...models.files import write_files
from .grid import DRAWN, NAMES
from .lab import Point
from .run import Curves

_COLOURS = {
    "bit planes": "#0f7b6c", "experts": "#d9a441", "gate": "#7a4fa3", "inputs": "#c2553d", "static pruning": "#8a8f98",
    "fewer bits": "#4a7fb5",
}  # fmt: skip
_MARKERS = "os^vDP*X<>hpd"
_LOWEST = 0.5  # what is drawn of top-1 relative to dense


def write_curves(curves: Curves, folder: Path) -> list[Path]:
    """Writes curves.json, curves.png and curves.html; gives their paths. Needs matplotlib."""
    picture = draw(curves)
    return write_files(folder, {
        "curves.json": json.dumps(as_json(curves), indent=1).encode() + b"\n",
        "curves.png": picture,
        "curves.html": page(curves, picture).encode(),
    })  # fmt: skip


def as_json(curves: Curves) -> dict[str, Any]:
    """All of it, with the sums of every window, so that any interval can be drawn again."""
    compared = [{**point.to_json(), **_figures(curves, point)} for point in curves.points]
    return {**curves.facts, "dense": curves.dense.to_json(), "points": compared}


def page(curves: Curves, picture: bytes) -> str:
    """Self-contained HTML: a table for each share, best first."""
    sections = [
        html_section(f"{share:.0%} of the FFN's int8 bytes", html_table(*rows(curves, share)))
        for share in sorted({point.share for point in curves.points}, reverse=True)
    ]
    title = f"{curves.facts['model']}: what an FFN keeps for the bytes it reads"
    return html_page(title, html_image(picture, title) + "".join(sections) + html_notes(notes(curves)))


def rows(curves: Curves, share: float) -> tuple[list[str], list[list[str]]]:
    """Head and rows of one share, by top-1 accuracy; what was not measured comes last, with the reason."""
    head = ["method", "bytes read", "neurons", "top-1 / dense (95 %)", "perplexity / dense (95 %)"]
    head += [f"top-1 / dense over {curves.plan.seeds} seeds"] * (curves.plan.seeds > 1)
    here = [point for point in curves.points if point.share == share]
    done = sorted((point for point in here if not point.reason), key=lambda point: -sum(point.correct))
    default = curves.defaults[share]
    beside = next((point for point in done if point.method == default), done[0] if done else None)
    head.append(f"top-1 / that of {'the default' if beside and beside.method == default else 'the best'} (95 %)")
    found = [_row(curves, point, beside) for point in done]
    missing = [point for point in here if point.reason]
    return head, found + [[point.method, *[""] * (len(head) - 2), point.reason] for point in missing]


def notes(curves: Curves) -> list[str]:
    """What one must know to read them."""
    facts = curves.facts
    return [
        f"Scored on {facts['tokens']:,} tokens, {facts['windows']} windows of {facts['length']} "
        f"of {', '.join(facts['text'])}; set on {facts['calibration_tokens']:,} tokens of the calibration text that "
        f"ships; seed {facts['seed']}."
        + (
            f" With {facts['seeds']} seeds each has its own calibration text: mean and deviation of what they give."
            if facts["seeds"] > 1
            else ""
        ),
        "Dense is the model with its FFNs in int8, all else as it comes. Bytes are those of a lone token, routing and "
        "the constant for what is left out included; a share is of the int8 FFN. Routers of their own are counted in "
        "bf16.",
        "Intervals: paired bootstrap over windows, of the last column too: one that holds 1 shows no difference. The "
        "default is what a recipe does that says nothing of it and has no lower tier: "
        + ", ".join(f"{name} at {share:.0%}" for share, name in curves.defaults.items())
        + ".",
        *NAMES,
        f"Measured with {json.dumps(facts['provenance'])}.",
    ]


def draw(curves: Curves) -> bytes:
    """A PNG: top-1 accuracy relative to dense against the bytes read."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), dpi=110, layout="constrained")
    panel = figure.subplots()
    panel.axhline(1.0, color="#cccccc", linewidth=1)
    markers = iter(_MARKERS * 4)
    for name in DRAWN:
        _line(
            panel,
            curves,
            [point for point in curves.points if point.method == name and not point.reason],
            next(markers),
        )
    panel.set_ylim(_LOWEST, 1.02)
    panel.set_xlabel("share of the FFN's int8 bytes that a token reads, routing included")
    panel.set_ylabel("next-token top-1 accuracy, relative to dense")
    panel.set_title(f"{Path(curves.facts['model']).name}: {curves.facts['tokens']:,} tokens", loc="left")
    panel.spines[["top", "right"]].set_visible(False)
    if panel.containers:
        panel.legend(frameon=False, fontsize=8, ncols=2)
    return as_png(figure)


def _line(panel: Any, curves: Curves, points: Sequence[Point], marker: str) -> None:
    if not points:
        return
    ordered = sorted(points, key=lambda point: point.bytes_share)
    shares = [point.bytes_share for point in ordered]
    kept = [_top1(curves, point) for point in ordered]
    values = [each.ratio for each in kept]
    reach = np.array([[max(0.0, each.ratio - each.ratio_interval.low) for each in kept],
                      [max(0.0, each.ratio_interval.high - each.ratio) for each in kept]])  # fmt: skip
    perfect = "perfect" in ordered[0].method
    panel.errorbar(
        shares, values, yerr=reach, label=ordered[0].method, marker=marker, markersize=5, linewidth=1.4,
        elinewidth=0.7, color=_COLOURS[ordered[0].group], linestyle=":" if perfect else "-", alpha=0.9,
    )  # fmt: skip


def _row(curves: Curves, point: Point, beside: Point | None) -> list[str]:
    ahead = compare_means(point.correct, beside.correct, point.tokens) if beside and beside is not point else None
    spread = _over_seeds(curves, point, _top1)
    return [
        point.method, f"{point.bytes_share:.3f}", f"{point.neurons_share:.3f}", _shown(_top1(curves, point)),
        _shown(_perplexity(curves, point)), *([f"{spread.mean:.4f} +- {spread.spread:.4f}"] if spread else []),
        *([""] if curves.plan.seeds > 1 and not spread else []), _shown(ahead) if ahead else "itself",
    ]  # fmt: skip


def _over_seeds(curves: Curves, point: Point, compare: Callable[[Curves, Point], Comparison]) -> SeedSpread | None:
    """None where there was one seed, or where another one gave no figure."""
    points = [point, *curves.again[point.method, point.share]]
    if len(points) == 1 or any(each.reason for each in points):
        return None
    return SeedSpread(tuple(compare(curves, each).ratio for each in points))


def _figures(curves: Curves, point: Point) -> Mapping[str, Any]:
    if point.reason:
        return {}
    pairs = {"top1_relative": _top1(curves, point), "perplexity_relative": _perplexity(curves, point)}
    found: dict[str, Any] = {
        name: {"value": each.ratio, "low": each.ratio_interval.low, "high": each.ratio_interval.high}
        for name, each in pairs.items()
    }
    for name, compare in (("top1_relative", _top1), ("perplexity_relative", _perplexity)):
        if spread := _over_seeds(curves, point, compare):
            found[name]["by_seed"] = spread.values
    return found


def _top1(curves: Curves, point: Point) -> Comparison:
    return compare_means(point.correct, curves.dense.correct, point.tokens)


def _perplexity(curves: Curves, point: Point) -> Comparison:
    return compare_perplexities(point.nats, curves.dense.nats, point.tokens)


def _shown(comparison: Comparison) -> str:
    interval = comparison.ratio_interval
    if not math.isfinite(comparison.ratio):
        return "no figure"
    return f"{comparison.ratio:.4f} ({interval.low:.4f} to {interval.high:.4f})"
