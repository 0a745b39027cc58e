"""Retention as served, as a table and one picture."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...evaluate.files import as_png
from ..load.picture import COLOURS


def rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A row for each model and tier; relative to the original at full."""
    head = ["model", "tier", "MB a token", "perplexity", "top-1", "relative top-1", "relative perplexity"]
    return head, [
        [
            name, tier["tier"], _megabytes(tier["token_bytes"]), f"{tier['perplexity']:.4f}",
            f"{tier['top1']['value']:.2%}", _shown(tier["relative_top1"]), _shown(tier["relative_perplexity"]),
        ]
        for name, model in report["models"].items() for tier in model["tiers"]
    ]  # fmt: skip


def notes(report: Mapping[str, Any]) -> Iterator[str]:
    """What one must know to read the table."""
    yield (
        f"{report['tokens']:,} tokens in {report['windows']} windows of {report['length']}, each behind "
        f"{report['context']} tokens of context that are read at the full tier; asked over gRPC"
    )
    yield "relative to the first model at full, with the 95 % interval of windows drawn anew, the same for both"
    if not report["complete"]:
        yield "the report is not complete: the same command goes on with it"


def picture(report: Mapping[str, Any]) -> bytes:
    """Relative top-1 and perplexity against the bytes of weights that a new token reads, a line for each model."""
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(11, 4.4), dpi=110, layout="constrained")
    panels = sheet.subplots(1, 2)
    for panel, key, title in zip(
        panels, ("relative_top1", "relative_perplexity"), ("top-1", "perplexity"), strict=True
    ):
        for place, (name, model) in enumerate(report["models"].items()):
            tiers = [tier for tier in model["tiers"] if tier["token_bytes"]]
            _line(panel, tiers, key, name, COLOURS[place % len(COLOURS)])
        panel.axhline(1.0, color="#8a8f98", linewidth=0.8)
        panel.set_xlabel("MB of weights that a new token reads")
        panel.set_title(f"{title}, relative to the original", loc="left", fontsize=11)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    panels[0].legend(frameon=False)
    return as_png(sheet)


def _line(panel: Any, tiers: Sequence[Mapping[str, Any]], key: str, name: str, colour: str) -> None:
    values = [tier[key] for tier in tiers]
    reach = [[each["value"] - each["low"] for each in values], [each["high"] - each["value"] for each in values]]
    sizes = [tier["token_bytes"] / 1e6 for tier in tiers]
    panel.errorbar(
        sizes, [each["value"] for each in values], yerr=reach, color=colour, marker="o", capsize=2, label=name
    )


def _megabytes(count: int | None) -> str:
    return f"{count / 1e6:.4g}" if count else ""


def _shown(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.4f} ({figure['low']:.4f} to {figure['high']:.4f})"
