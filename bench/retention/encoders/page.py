"""What methods keep of a model with an encoder, as plain values and as a table made of these."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ....evaluate.results import comparison_json
from ....evaluate.statistics import Comparison, compare_means, compare_perplexities
from ....models.files import write_files
from .lab import Columns
from .run import EncoderCurves

FILE = "encoder.json"
_KINDS = {  # of methods, and what is in their names
    "MoEfication as published": ("MLP, top-k",), "bit planes": ("high ",), "graded inputs": ("graded inputs",),
    "columns left out (TEAL, WINA)": ("TEAL", "WINA"), "pruning": ("pruning",), "int4 by GPTQ": ("GPTQ",),
    "int4 to nearest": ("to nearest",),
}  # fmt: skip
Table = tuple[list[str], list[list[str]]]
_HEADS = {  # of the figures that a table shows: those of answers, those of vectors
    "perplexity": "perplexity / dense (95 %)", "same_tokens": "same tokens (95 %)", "exact": "same answers (95 %)",
    "cosine": "mean cosine", "reciprocal_rank": "1 / rank (95 %)", "hit": "found first (95 %)",
}  # fmt: skip


def as_json(curves: EncoderCurves) -> dict[str, Any]:
    """All of it, with the figures of every item, so that any interval can be drawn again."""
    dense = curves.dense.columns
    points = [point.to_json() | {"against_dense": _compared(point.columns, dense)} for point in curves.points]
    ends = {"original": curves.original.to_json(), "dense": curves.dense.to_json()}
    return {**curves.facts, **ends, "points": points}


def shares_of(report: Mapping[str, Any]) -> list[float]:
    """The shares that were asked for, the highest first."""
    return sorted({point["share"] for point in report["points"]}, reverse=True)


def rows(report: Mapping[str, Any], share: float) -> Table:
    """Head and rows of one share, best first; behind them what was not measured, with the reason."""
    here = [point for point in report["points"] if point["share"] == share]
    done = sorted((point for point in here if not point["reason"]), key=_loss)
    names = [name for name in _HEADS if done and name in (*done[0]["against_dense"], *done[0]["columns"])]
    found = [
        [
            point["method"], f"{point['bytes_share']:.3f}", f"{point['neurons_share']:.3f}",
            *(_cell(point, name) for name in names),
        ]
        for point in done
    ]  # fmt: skip
    missing = [[each["method"], *[""] * (1 + len(names)), each["reason"]] for each in here if each["reason"]]
    return ["method", "bytes read", "neurons", *(_HEADS[name] for name in names)], found + missing


def in_short(report: Mapping[str, Any]) -> Table:
    """The best of each kind of method at each share, by what is lost: its first figure, and the bytes it reads."""
    shares = shares_of(report)
    first = "perplexity" if "nats" in report["dense"]["columns"] else "cosine"
    found = [[kind, *(_best(report, share, marks, first) for share in shares)] for kind, marks in _KINDS.items()]
    head = [f"{_HEADS[first]}, at {share:.2f} of the FFNs" for share in shares]
    return [report["model"], *head], [row for row in found if any(row[1:])]


def _best(report: Mapping[str, Any], share: float, marks: Sequence[str], figure: str) -> str:
    here = [each for each in report["points"] if each["share"] == share and any(m in each["method"] for m in marks)]
    done = [each for each in here if not each["reason"]]
    if not done:
        return "reads more" if here else ""
    point = min(done, key=_loss)
    return f"{_cell(point, figure)}, reads {point['bytes_share']:.3f}"


def notes(report: Mapping[str, Any]) -> list[str]:
    """What one must know to read them."""
    return [
        f"Scored on {report['documents']} documents of at most {report['length']} tokens of "
        f"{', '.join(report['text'])}; set on {report['calibration_tokens']:,} tokens of "
        f"{report['calibration_text']}; seed {report['seed']}.",
        "Differences are from the model with its FFNs in int8, paired bootstraps over documents: an interval that "
        "holds 0, or 1 for a ratio, shows none. Cosines are with the vectors of the model as it came.",
        "Experts of 32, MLP, top-k, is MoEfication as published (Zhang et al. 2022), which has no constant for what is "
        "left out, and graded inputs have none; the others have. A perfect router reads nothing for what it knows: a "
        "ceiling, not a method.",
    ]


def write_encoder_curves(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes the figures; gives the path."""
    return write_files(folder, {FILE: json.dumps(report, indent=1).encode() + b"\n"})


def _compared(mine: Columns, dense: Columns) -> dict[str, Any]:
    found = dict[str, Comparison]()
    if not mine:
        return {}
    if "nats" in mine:
        found["perplexity"] = compare_perplexities(mine["nats"], dense["nats"], mine["tokens"])
        found["same_tokens"] = compare_means(mine["correct"], dense["correct"], mine["tokens"])
        found["exact"] = compare_means(mine["exact"], dense["exact"])
    else:
        found |= {name: compare_means(mine[name], dense[name]) for name in ("reciprocal_rank", "hit")}
    return {name: comparison_json(each) for name, each in found.items()}


def _loss(point: Mapping[str, Any]) -> float:
    """What the order goes by: less is better."""
    columns: Mapping[str, Sequence[float]] = point["columns"]
    return sum(columns["nats"]) if "nats" in columns else -sum(columns["cosine"])


def _cell(point: Mapping[str, Any], name: str) -> str:
    if name not in point["against_dense"]:
        values: Sequence[float] = point["columns"][name]
        return f"{sum(values) / len(values):.4f}"
    found = point["against_dense"][name]
    if name == "perplexity":
        low, high = (found["ratio_interval"][end] for end in ("low", "high"))
        return f"x{found['ratio']:.3f} ({low:.3f} to {high:.3f})"
    low, high = (found["difference_interval"][end] for end in ("low", "high"))
    return f"{found['difference']:+.2%} ({low:+.2%} to {high:+.2%})"


def beside_planes(report: Mapping[str, Any], share: float) -> str:
    """Who keeps more than the best bit planes at a share, and who less, by paired bootstraps of nats, or of cosines."""
    done = sorted((each for each in report["points"] if each["share"] == share and not each["reason"]), key=_loss)
    best = next((point for point in done if point["group"] == "bit planes"), None)
    if best is None:
        return f"No bit planes read so little as {share:.2f}."
    others = [point for point in done if point["group"] != "bit planes"]
    signs = {point["method"]: _sign(point["columns"], best["columns"]) for point in others}
    said = {1: "more", -1: "less", 0: "no difference is shown from"}
    named = {word: [name for name, sign in signs.items() if sign == each] for each, word in said.items()}
    parts = [f"{word}: {'; '.join(names)}" for word, names in named.items() if names]
    return f"Beside {best['method']}, the best planes at {share:.2f}, {'. '.join(parts)}."


def _sign(mine: Columns, planes: Columns) -> int:
    """1 where mine keeps more, -1 where less, 0 where nothing is shown."""
    if "nats" in mine:
        return -compare_perplexities(mine["nats"], planes["nats"], mine["tokens"]).sign
    return compare_means(mine["cosine"], planes["cosine"]).sign
