"""A compression as tables, as JSON, as one picture and as a page that needs no other file.

Everything is made of the plain values that `collect` gives and report.json holds, so a page can be made anew from it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ...evaluate.compare import AHEAD, BEHIND, NO_DIFFERENCE, PERPLEXITY, TOP1
from ...evaluate.files import check_can_draw
from ...evaluate.pages import render
from ...models.files import write_files
from .collect import Report
from .derive import ALONE, EXPERTS_OF_64, RANDOM_EXPERTS, ROUTERS, STATIC, STATIC_DISTILLED
from .picture import draw, governed

Table = tuple[list[str], list[list[str]]]
FORMATS = {
    "bytes": "{:,.0f}", "share": "{:.3f}", "perplexity": "{:.4f}", "percent": "{:.2%}", "relative": "{:.4f}",
    "rate": "{:,.1f}", "times": "{:.2f}", "kl": "{:.5f}", "ratio": "{:.4f}", "difference": "{:+.2%}", "count": "{:,}",
}  # fmt: skip
_ABOUT = {
    ALONE: "only ...: one method of the recipe by itself",
    STATIC: "static pruning: as many neurons for every token as take the bytes that the tier reads (FLAP, or by "
    "magnitude, or by chance, each with compensation), then int8 where the recipe has it",
    STATIC_DISTILLED: "static pruning, distilled: the same by FLAP, learning as much as the recipe's model did",
    EXPERTS_OF_64: "experts of 64: the recipe with such experts and a norm-regression router, which learns from the "
    "calibration text alone: little text makes a poor router",
    RANDOM_EXPERTS: "random experts of 64: the same, neurons grouped by chance",
    ROUTERS: "perfect router, random router: the finished model at the tier's own share of neurons, chosen by their "
    "true activations, or by chance, for nothing: no router is read",
}


def write_report(report: Report, folder: Path) -> list[Path]:
    """Writes report.json, report.png and report.html, each whole or not at all; gives their paths.

    Raises SetupError, before anything is written, where matplotlib is missing.
    """
    check_can_draw("a report")
    plain: Report = json.loads(json.dumps(report, allow_nan=False))
    picture = draw(plain)
    return write_files(folder, {
        "report.json": json.dumps(plain, indent=2).encode() + b"\n",
        "report.png": picture,
        "report.html": page(plain, picture).encode(),
    })  # fmt: skip


def page(report: Report, picture: bytes) -> str:
    """Self-contained HTML."""
    return render(
        "recipe", f"{report['model']}: what the recipe kept", picture=picture, notes=notes(report),
        notices=report.get("notices", []), tasks=task_rows(report["tasks"]) if report.get("tasks") else None,
        tiers=tier_rows(report), stages=stage_rows(report), command=report["command"],
        controls=control_rows(report) if report["controls"] else None, verdicts=verdict_rows(report),
        speed=speed_rows(report) if report["speed"] else None,
        recipe=yaml.safe_dump(report["recipe"], sort_keys=False, allow_unicode=True),
    )  # fmt: skip


def tier_rows(report: Report) -> Table:
    """The result at each tier, the full one first, held against the original."""
    head = [
        "tier", "bytes, set", "bytes", "neurons", "perplexity", "top-1", "relative", "KL, nats/token",
        "perplexity / original's", "top-1 - original's",
    ]  # fmt: skip
    rows = [["original", "", *_measured(_original(report)), "", ""]]
    for tier in report["tiers"]:
        against = tier["against_original"]
        rows.append([tier["name"], _shown("share", tier["share"]), *_measured(tier), *_compared(against)])
    return head, rows


def control_rows(report: Report) -> Table:
    """Each control with the tier that it stands beside, and what the tier is worth against it."""
    head = [
        "control", "beside tier", "bytes", "neurons", "perplexity", "top-1", "relative", "KL, nats/token",
        "tier's perplexity / this", "tier's top-1 - this",
    ]  # fmt: skip
    rows = []
    for control in report["controls"]:
        told = (
            _measured(control) + _compared(control["tier_against_it"]) if "score" in control else [""] * 7 + ["not run"]
        )
        rows.append([control["name"], control["tier"], *told])
    return head, rows


def verdict_rows(report: Report) -> Table:
    """What each tier is ahead of and behind, losses too."""
    head = ["tier", "by", AHEAD, NO_DIFFERENCE, BEHIND]
    beside = [each for each in report["controls"] if (each.get("tier_against_it") or {}).get("over")]
    rows = []
    for tier in dict.fromkeys(each["tier"] for each in beside):
        for figure, shown in ((PERPLEXITY, "perplexity"), (TOP1, "top-1")):
            found = [each for each in beside if each["tier"] == tier]
            rows.append([tier, shown, *(_names(found, figure, verdict) for verdict in head[2:])])
    return head, rows


def _names(controls: Sequence[Mapping[str, Any]], figure: str, verdict: str) -> str:
    return "; ".join(each["name"] for each in controls if each["tier_against_it"][figure]["verdict"] == verdict)


def task_rows(tasks: Mapping[str, Mapping[str, Any]]) -> Table:
    """What the original and each tier answer rightly, by task."""
    head = ["task", "", "items", "score", "above chance", "score - original's"]
    return head, [
        [
            task, tier, _shown("count", figures["items"]), _shown("percent", figures["score"]),
            _shown("percent", figures["above_chance"]),
            _worth(figures, "difference") if "difference" in figures else "",
        ]
        for task, scores in tasks.items()
        for tier, figures in scores.items()
    ]  # fmt: skip


def speed_rows(report: Report) -> Table:
    """Tokens per second of the original and of each tier, by batch, and as a multiple of the full tier's."""
    head = ["", "batch", "tokens/s, median", "tokens/s, best", "times the full tier's"]
    return head, [
        [
            row["name"], _shown("count", row["batch"]), _shown("rate", row["tokens_per_second"]),
            _shown("rate", row["best_tokens_per_second"]), _shown("times", row["times_full"]),
        ]
        for row in report["speed"]["rows"]
    ]  # fmt: skip


def stage_rows(report: Report) -> Table:
    """Bytes of weights and scores after each stage."""
    head = ["after", "settings", "bytes of weights", "perplexity", "top-1", "KL, nats/token", "top-1 agreement"]
    original = report["original"]
    rows = [["original", "", _shown("bytes", original["weight_bytes"]), *_figures(original["figures"])]]
    for stage in report["stages"]:
        settings = ", ".join(f"{key}: {json.dumps(value)}" for key, value in stage["settings"].items())
        size = _shown("bytes", stage["weight_bytes"])
        rows.append([stage["name"], settings, size, *_figures(stage["figures"] or {})])
    return head, rows


def notes(report: Report) -> list[str]:
    """What one must know to read the tables."""
    text, calibration, whole = report["evaluation"], report["calibration"], report["original"]["tier_bytes"]
    count = "{:,}".format
    said = [
        f"Scored on {count(text['tokens'])} tokens of {count(text['documents'])} documents of "
        f"{', '.join(text['text'])}; calibrated on {calibration['text']}, windows of {count(calibration['length'])} "
        f"tokens, at most {count(calibration['sequences'])}.",
        _about_overlap(text["overlap_with_calibration"]),
        f"Bytes are what a lone token reads of the {governed(report)}, routing included, neurons what it computes of "
        f"the FFNs, as shares of the original's in the format of the result ({report['ffn_format']}, "
        f"{_shown('bytes', whole)} bytes). Relative: top-1 accuracy as a share of the original's. Bytes, set: the "
        f"share of the result's own {governed(report)} that the recipe names.",
        _about_intervals(report),
        *(_ABOUT[group] for group in report["control_groups"]),
        *(f"{_title(each)}: not run: {each['reason']}" for each in report["controls"] if each["reason"]),
    ]
    if not report["control_groups"]:
        said.append("No controls were run, so nothing here says whether another way to the same bytes keeps more.")
    if report["speed"]:
        said.append(_about_speed(report["speed"]))
    return [*said, _about_machine(report["provenance"])]


def _about_overlap(share: float) -> str:
    if not share:
        found = "no run of 13 words of it is in the text that was scored"
    else:
        found = (
            f"{_shown('percent', share)} of the words that were scored lie in runs of 13 words that it has too, which "
            "flatters whatever was chosen on it"
        )
    return (
        f"Stages and controls choose on the calibration text alone: {found}. Who wrote the recipe may have seen more."
    )


def _about_speed(speed: Mapping[str, Any]) -> str:
    return (
        f"Speed is of greedy decode steps after short prompts, {_shown('count', speed['rounds'])} rounds taken in "
        f"turn, CPU threads: {_shown('count', speed['threads'])}, beside whatever else the machine did; it is measured "
        "anew for each report."
    )


def _about_intervals(report: Report) -> str:
    over = {tier["against_original"]["over"] for tier in report["tiers"]} - {""}
    if not over:
        return "The text is too short for intervals: nothing here is shown to differ."
    return (
        f"Intervals hold 95 % of a paired bootstrap over {' and '.join(sorted(over))}. Ahead or behind is said where "
        "they leave out 1 (of a ratio) or 0 (of a difference); else no difference is shown."
    )


def _about_machine(found: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    commit = f"; commit {found['commit']}" if found["commit"] else ""
    return f"{found['device']}, {found['processors']} processors; Python {found['python']}, {versions}{commit}."


def _title(control: Mapping[str, Any]) -> str:
    return f"{control['name']}, {control['tier']}" if control["tier"] else str(control["name"])


def _original(report: Report) -> Mapping[str, Any]:
    return {"bytes_share": 1.0, "neurons_share": 1.0, "relative_top1": 1.0, "figures": report["original"]["figures"]}


def _measured(entry: Mapping[str, Any]) -> list[str]:
    """Share of bytes and of neurons, perplexity, top-1, relative top-1, KL."""
    perplexity, top1, kl, _ = _figures(entry["figures"])
    shares = [_shown("share", entry[key]) for key in ("bytes_share", "neurons_share")]
    return [*shares, perplexity, top1, _shown("relative", entry["relative_top1"]), kl]


def _figures(figures: Mapping[str, Any]) -> list[str]:
    kinds = {PERPLEXITY: "perplexity", TOP1: "percent", "kl_nats_per_token": "kl", "top1_agreement": "percent"}
    return [_shown(kind, figures.get(key)) for key, kind in kinds.items()]


def _compared(comparisons: Mapping[str, Any] | None) -> list[str]:
    """The ratio of perplexities and the difference of top-1 accuracies, with intervals and what they show."""
    if not comparisons or not comparisons["over"]:
        return ["", ""]
    return [_worth(comparisons[PERPLEXITY], "ratio"), _worth(comparisons[TOP1], "difference")]


def _worth(comparison: Mapping[str, Any], kind: str) -> str:
    low, high = (_shown(kind, comparison[f"{kind}_interval"][side]) for side in ("low", "high"))
    return f"{_shown(kind, comparison[kind])} ({low} to {high}), {comparison['verdict']}"


def _shown(kind: str, value: float | None) -> str:
    return "" if value is None else FORMATS[kind].format(value)
