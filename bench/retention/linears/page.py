"""The curves over all linears as tables, a page and a picture, made of the plain values of curves.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....evaluate.pages import render
from ....evaluate.statistics import compare_means, compare_perplexities
from ....models.files import write_files
from ..page import Table, shares_of, shown
from ..picture import picture
from .grid import DRAWN, NAMES
from .matrices import FFN_AXIS, HEAD_AXIS, LINEARS_AXIS

_SHOWN = (0.99, 1.25)  # of perplexity, in the picture
_WHOLE = {
    LINEARS_AXIS: "the int8 bytes of all linears", FFN_AXIS: "the int8 bytes of the FFNs' linears",
    HEAD_AXIS: "the int8 bytes of the head",
}  # fmt: skip


def write_curves(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes curves.json, curves.png and curves.html; gives their paths. Needs matplotlib."""
    drawn = picture(report, DRAWN, whole_of(report), "perplexity_relative", _SHOWN)
    return write_files(folder, {
        "curves.json": json.dumps(report, indent=1).encode() + b"\n",
        "curves.png": drawn,
        "curves.html": page(report, drawn).encode(),
    })  # fmt: skip


def page(report: Mapping[str, Any], drawn: bytes) -> str:
    """Self-contained HTML: a table for each share, best first. drawn: b"" where there is no picture."""
    title = f"{report['model']}: what a model keeps for the bytes it reads of {_WHOLE[report['axis']][19:]}"
    tables = [(f"{100 * share:.3g}%", rows(report, share)) for share in shares_of(dict(report))]
    return render("curves", title, shares=tables, whole=whole_of(report), notes=notes(report), picture=drawn)


def whole_of(report: Mapping[str, Any]) -> str:
    """What shares are of."""
    return _WHOLE[report["axis"]]


def rows(report: Mapping[str, Any], share: float) -> Table:
    """Head and rows of one share, by perplexity; what was not measured comes last, with the reason."""
    head = [
        "method",
        "bytes read",
        "of linears and head",
        "top-1 / int8 (95 %)",
        "perplexity / int8 (95 %)",
        "KL",
        "agrees",
    ]
    here = [point for point in report["points"] if point["share"] == share]
    done = sorted((point for point in here if not point["reason"]), key=lambda point: sum(point["nats"]))
    default = next((point for point in report["points"] if point["share"] == share and not point["reason"]), None)
    head += ["perplexity / the first's (95 %)", "top-1 / the first's (95 %)"]
    missing = [[point["method"], *[""] * (len(head) - 2), point["reason"]] for point in here if point["reason"]]
    return head, [_row(report, point, default) for point in done] + missing


def notes(report: Mapping[str, Any]) -> list[str]:
    """What one must know to read them."""
    noisy = (
        "Its weights had noise added that takes them off a 4-bit grid (off_grid.json). " if report["off_grid"] else ""
    )
    return [
        f"Scored on {report['tokens']:,} tokens, {report['windows']} windows of {report['length']} of "
        f"{', '.join(report['text'])}; set on at most {report['calibration_tokens']:,} tokens of the text that "
        f"ships; seed {report['seed']}. {noisy}",
        "All is beside the model with linears and head in int8, products in bf16 of integer weights. Bytes are of a "
        "lone token, scales and constants included; a share is of int8. KL is in nats a token from int8; agrees: how "
        "often both say the same next token. Intervals: paired bootstrap over windows.",
        *NAMES,
        f"Measured with {json.dumps(report['provenance'])}.",
    ]


def _row(report: Mapping[str, Any], point: Mapping[str, Any], default: Mapping[str, Any] | None) -> list[str]:
    cells = [point["method"], f"{point['bytes_share']:.3f}", f"{point['whole_share']:.3f}"]
    cells += [shown(point["top1_relative"]), shown(point["perplexity_relative"])]
    cells += [f"{point['kl_per_token']:.4f}", f"{point['agreement']:.4f}"]
    if default is None or default is point:
        return [*cells, "itself", "itself"]
    worse = compare_perplexities(point["nats"], default["nats"], point["tokens"])
    fewer = compare_means(point["correct"], default["correct"], point["tokens"])
    both = ({"value": c.ratio, "low": c.ratio_interval.low, "high": c.ratio_interval.high} for c in (worse, fewer))
    return [*cells, *map(shown, both)]
