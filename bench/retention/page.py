"""The curves as tables and as a page that holds all of it, made of the plain values of curves.json."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...evaluate.pages import render
from ...evaluate.statistics import SeedSpread, compare_means
from ...models.files import write_files
from .grid import NAMES
from .picture import draw
from .plain import Report

Table = tuple[list[str], list[list[str]]]


def write_curves(report: Report, folder: Path) -> list[Path]:
    """Writes curves.json, curves.png and curves.html; gives their paths. Needs matplotlib."""
    picture = draw(report)
    return write_files(folder, {
        "curves.json": json.dumps(report, indent=1).encode() + b"\n",
        "curves.png": picture,
        "curves.html": page(report, picture).encode(),
    })  # fmt: skip


def page(report: Report, picture: bytes) -> str:
    """Self-contained HTML: a table for each share, best first. picture: b"" where there is none."""
    title = f"{report['model']}: what an FFN keeps for the bytes it reads"
    shares = [(f"{share:.0%}", rows(report, share)) for share in shares_of(report)]
    whole = "the FFN's int8 bytes"
    return render("curves", title, shares=shares, whole=whole, notes=notes(report), picture=picture)


def shares_of(report: Report) -> list[float]:
    """The shares that were asked for, the highest first."""
    return sorted({point["share"] for point in report["points"]}, reverse=True)


def rows(report: Report, share: float) -> Table:
    """Head and rows of one share, by top-1 accuracy; what was not measured comes last, with the reason."""
    head = ["method", "bytes read", "neurons", "top-1 / dense (95 %)", "perplexity / dense (95 %)"]
    head += [f"top-1 / dense over {report['seeds']} seeds"] * (report["seeds"] > 1)
    here = [point for point in report["points"] if point["share"] == share]
    done = sorted((point for point in here if not point["reason"]), key=lambda point: -sum(point["correct"]))
    default = report.get("defaults", {}).get(str(share))  # files of earlier versions name none
    beside = next((point for point in done if point["method"] == default), done[0] if done else None)
    head.append(f"top-1 / that of {'the default' if beside and beside['method'] == default else 'the best'} (95 %)")
    found = [_row(report, point, beside) for point in done]
    missing = [point for point in here if point["reason"]]
    return head, found + [[point["method"], *[""] * (len(head) - 2), point["reason"]] for point in missing]


def notes(report: Report) -> list[str]:
    """What one must know to read them."""
    return [
        f"Scored on {report['tokens']:,} tokens, {report['windows']} windows of {report['length']} "
        f"of {', '.join(report['text'])}; set on {report['calibration_tokens']:,} tokens of the calibration text that "
        f"ships; seed {report['seed']}."
        + (
            f" With {report['seeds']} seeds each has its own calibration text: mean and deviation of what they give."
            if report["seeds"] > 1
            else ""
        ),
        "Dense is the model with its FFNs in int8, all else as it comes. Bytes are those of a lone token, routing and "
        "the constant for what is left out included; a share is of the int8 FFN. Routers of their own are counted in "
        "bf16.",
        "Intervals: paired bootstrap over windows, of the last column too: one that holds 1 shows no difference.",
        *_about_defaults(report),
        *NAMES,
        *(f"About this run: {remark}." for remark in report.get("remarks", [])),
        f"Measured with {json.dumps(report['provenance'])}.",
    ]


def _about_defaults(report: Report) -> list[str]:
    named = ", ".join(f"{name} at {float(share):.0%}" for share, name in report.get("defaults", {}).items())
    said = f"The default is what a recipe does that says nothing of it and has no lower tier: {named}."
    return [said] if named else []


def _row(report: Report, point: Mapping[str, Any], beside: Mapping[str, Any] | None) -> list[str]:
    spread = point["top1_relative"].get("by_seed")
    return [
        point["method"], f"{point['bytes_share']:.3f}", f"{point['neurons_share']:.3f}",
        shown(point["top1_relative"]), shown(point["perplexity_relative"]),
        *([_spread(spread)] if report["seeds"] > 1 else []), _ahead(point, beside),
    ]  # fmt: skip


def _spread(values: Sequence[float] | None) -> str:
    if not values:
        return ""
    spread = SeedSpread(tuple(values))
    return f"{spread.mean:.4f} +- {spread.spread:.4f}"


def _ahead(point: Mapping[str, Any], beside: Mapping[str, Any] | None) -> str:
    if beside is None or beside is point:
        return "itself"
    found = compare_means(point["correct"], beside["correct"], point["tokens"])
    return shown({"value": found.ratio, "low": found.ratio_interval.low, "high": found.ratio_interval.high})


def shown(figure: Mapping[str, float]) -> str:
    """A ratio and its interval."""
    if not math.isfinite(figure["value"]):
        return "no figure"
    return f"{figure['value']:.4f} ({figure['low']:.4f} to {figure['high']:.4f})"
