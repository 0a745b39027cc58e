"""Retention as served, as tables and one picture."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...evaluate.files import as_png
from ..load.picture import COLOURS
from .verdict import verdicts

Rows = tuple[list[str], list[list[str]]]
_FIGURES = {"relative_top1": ".4f", "relative_perplexity": ".4f", "kl": ".3g"}


def rows(report: Mapping[str, Any]) -> Rows:
    """A row for each model and tier; relative to the original at full."""
    head = ["model", "tier", "MB a token", "perplexity", "top-1", "relative top-1", "relative perplexity", "KL, nats"]
    return head, [
        [
            name, tier["tier"], _megabytes(tier["token_bytes"]), f"{tier['perplexity']:.4f}", f"{tier['top1']:.2%}",
            *(_spread(tier, key, form) for key, form in _FIGURES.items()),
        ]
        for name, tiers in report["kept"].items() for tier in tiers
    ]  # fmt: skip


def task_rows(report: Mapping[str, Any]) -> Rows:
    """A row for each task, model and tier."""
    head = ["task", "model", "tier", "right", "above chance", "beside the original", "of what it has above chance"]
    return head, [
        [
            task, name, tier["tier"], _shown(found["score"], ".2%"), f"{found['above_chance']:.2%}",
            _shown(found["difference"], "+.2%"), _shown(found.get("relative_above_chance"), ".3f"),
        ]
        for name, tiers in report["kept"].items() for tier in tiers for task, found in tier["tasks"].items()
    ]  # fmt: skip


def control_rows(report: Mapping[str, Any]) -> Rows:
    """A row for each control, beside the tier that reads no more than it does."""
    head = ["beside", "MB a token", "model, tier", "MB a token", "its top-1, relative", "its perplexity, relative"]
    return head, [
        [
            each["other"], _megabytes(each["other_bytes"]), f"{each['model']}, {each['tier']}",
            _megabytes(each["token_bytes"]), _shown(each["relative_top1"], ".4f"),
            _shown(each["relative_perplexity"], ".4f"),
        ]
        for each in report["against"]
    ]  # fmt: skip


def notes(report: Mapping[str, Any]) -> Iterator[str]:
    """What it comes to, and what one must know to read the tables."""
    yield from verdicts(report)
    yield (
        f"{report['tokens']:,} tokens in {report['windows']} windows of {report['length']}, each behind "
        f"{report['context']} tokens of context that are read at the full tier; asked over gRPC"
    )
    yield "relative to the first model at full, with the 95 % interval of windows drawn anew, the same for both"
    if report["compared"]:
        yield f"KL of the original's whole distribution to the model's, at {report['compared']:,} of the tokens"
    seeds = {name: tiers[0]["seeds"] for name, tiers in report["kept"].items() if tiers and tiers[0]["seeds"] > 1}
    for name, count in seeds.items():
        yield f"{name}: the mean of {count} seeds; ± is their standard deviation"
    for name, about in report["models"].items():
        if about["counted_as"]:
            stands_for = about["counted_as"]["name"]
            yield f"{name}: {stands_for}; served as the same values in bf16, counted as it would be packed"
        if about["stopped"]:
            yield f"{name} is not whole: {about['stopped']}"
    if not report["complete"]:
        yield "the report is not complete: the same command goes on with it"


def picture(report: Mapping[str, Any]) -> bytes:
    """What is kept against the bytes of weights that a new token reads, a line for each model."""
    from matplotlib.figure import Figure

    shown = [("relative_top1", "top-1, relative to the original"), ("relative_perplexity", "perplexity, relative")]
    shown += [("kl", "KL from the original, nats a token")] if report["compared"] else []
    sheet = Figure(figsize=(5.5 * len(shown), 4.6), dpi=110, layout="constrained")
    panels = sheet.subplots(1, len(shown))
    for panel, (key, title) in zip(panels, shown, strict=True):
        for place, (name, tiers) in enumerate(report["kept"].items()):
            _line(panel, [tier for tier in tiers if tier["token_bytes"]], key, name, COLOURS[place % len(COLOURS)])
        if key != "kl":
            panel.axhline(1.0, color="#8a8f98", linewidth=0.8)
        panel.set_xlabel("MB of weights that a new token reads")
        panel.set_title(title, loc="left", fontsize=11)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    sheet.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return as_png(sheet)


def _line(panel: Any, tiers: Sequence[Mapping[str, Any]], key: str, name: str, colour: str) -> None:
    values = [tier[key] for tier in tiers]
    reach = [[each["value"] - each["low"] for each in values], [each["high"] - each["value"] for each in values]]
    panel.errorbar(
        [tier["token_bytes"] / 1e6 for tier in tiers], [each["value"] for each in values], yerr=reach, color=colour,
        marker="o" if len(tiers) > 1 else "s", capsize=2, label=name,
    )  # fmt: skip


def _megabytes(count: int | None) -> str:
    return f"{count / 1e6:.4g}" if count else ""


def _spread(tier: Mapping[str, Any], key: str, form: str) -> str:
    """A figure with its interval, and how far seeds lie apart."""
    apart = tier.get("spread", {}).get(key)
    return _shown(tier.get(key), form) + (f" ± {apart:.2g}" if apart is not None else "")


def _shown(figure: Mapping[str, float] | None, form: str) -> str:
    return f"{figure['value']:{form}} ({figure['low']:{form}} to {figure['high']:{form}})" if figure else ""
