"""The report as one picture: what it costs, what was kept, how fast it is, how long one waits."""

from pathlib import Path
from typing import Any

from ..evaluate.files import as_png
from ..models.files import write_whole
from .report import Report

DENSE, INT8, PEERS = "#8a8f98", "#0f7b6c", ("#d9a441", "#c7c1b2")


def draw(report: Report, file: Path) -> None:
    """Writes a PNG of four panels. Needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.2), dpi=110, layout="constrained")
    panels = figure.subplots(2, 3)
    _bars(panels[0][0], "weights, MB", {n: report["bytes"][n] / 1e6 for n in ("dense", "int8")})
    kept = report.get("retention", {})
    _bars(
        panels[0][1], "perplexity (lower is better)", {n: kept[n]["perplexity"] for n in kept if n in report["bytes"]}
    )
    _bars(
        panels[0][2],
        "next-token accuracy, %",
        {n: 100 * kept[n]["top1_accuracy"] for n in kept if n in report["bytes"]},
    )
    speed = report.get("engine", {}).get("speed", {})
    for panel, batch in ((panels[1][0], "1"), (panels[1][1], "8")):
        rates = {name.removeprefix("moesaic "): by[batch]["tokens_per_second"] for name, by in speed.items()}
        _bars(panel, f"tokens/s, batch {batch}", rates)
    _latency(panels[1][2], report.get("serve", {}))
    machine = report["machine"]
    figure.suptitle(f"{report['model']}: dense and int8, on {machine['device']} (commit {machine['commit']})")
    write_whole(file, as_png(figure))


def _bars(panel: Any, title: str, values: dict[str, float]) -> None:
    panel.set_title(title, loc="left", fontsize=11)
    colors = {"dense": DENSE, "int8": INT8}
    peers = iter(PEERS)
    bars = panel.bar(
        [name.replace(" ", "\n") for name in values], list(values.values()),
        color=[colors.get(name) or next(peers) for name in values], width=0.62,
    )  # fmt: skip
    panel.bar_label(bars, labels=[f"{value:,.4g}" for value in values.values()], padding=2)
    panel.margins(y=0.15)
    panel.set_yticks([])
    panel.spines[["top", "right", "left"]].set_visible(False)


def _latency(panel: Any, served: dict[str, Any]) -> None:
    """Time to first token and between tokens at 1 and 8 streams, medians."""
    panel.set_title("through gRPC, ms (p50)", loc="left", fontsize=11)
    marks = [("TTFT, 1", "1", "ttft_ms_p50"), ("TTFT, 8", "8", "ttft_ms_p50")]
    marks += [("ITL, 1", "1", "itl_ms_p50"), ("ITL, 8", "8", "itl_ms_p50")]
    for shift, (name, color) in zip((-0.2, 0.2), (("dense", DENSE), ("int8", INT8)), strict=True):
        if name in served:
            heights = [served[name][streams][key] for _, streams, key in marks]
            bars = panel.bar([i + shift for i in range(len(marks))], heights, width=0.38, color=color, label=name)
            panel.bar_label(bars, fmt="%.3g", padding=2, fontsize=9)
    panel.set_xticks(range(len(marks)), [label for label, _, _ in marks])
    panel.set_yticks([])
    panel.margins(y=0.15)
    panel.spines[["top", "right", "left"]].set_visible(False)
    if served:
        panel.legend(frameon=False)
