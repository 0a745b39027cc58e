"""The tour: one recipe with all four methods, its company, and what each of its tiers reads, keeps and gains."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ..compress.pipeline import Compression, compress
from ..compress.recipe import Recipe, read_recipe
from ..engine.llm import LLM
from ..evaluate.files import as_png
from ..evaluate.pages import render
from ..models.checkpoint import Checkpoint, open_checkpoint
from ..models.cost import token_cost
from ..models.extras import can_draw
from ..models.files import write_files
from ..models.locate import DEFAULT_MODEL, by_short_name
from ..models.progress import Progress
from ..models.spec import FULL

WANTED_MODEL = "smollm2"
RECIPE, FULL_RECIPE = "demo", "tour"  # two minutes on two cores, seven
_NEW_TOKENS, _ROUNDS = 24, 3
_MARKS = {"all four": ("#0f7b6c", "o-"), "int8 alone": ("#2f4b7c", "s"), "static pruning": ("#d9a441", "D")}
_PROMPT = "The old horse stood at the gate and"


@dataclass(frozen=True, slots=True)
class Row:
    """One model at a tier: whose it is, its tier, bytes on disk, and figures on text that nothing was chosen on.

    read: of the bytes that a token reads of the model in int8, all weights and the head, the part that it reads here.
    """

    name: str
    tier: str
    weight_bytes: int
    read: float
    perplexity: float
    top1: float
    tokens_per_second: float = 0.0


def tour_model() -> str:
    """The real model where it is at hand, else the one that ships."""
    return WANTED_MODEL if by_short_name(WANTED_MODEL) else DEFAULT_MODEL


def tour_recipes(recipe: str) -> dict[str, Mapping[str, Any]]:
    """The recipe, int8 alone, and static pruning that leaves of the FFN the share that the lowest tier reads of all."""
    steps = read_recipe(recipe)
    lowest = min(steps.tiers().values())
    return {
        "all four": steps.model_dump(),
        "int8 alone": _alone(steps, [{"quantize": {"linears": "int8"}}]),
        "static pruning": _alone(steps, [{"prune": {"remove": 1 - lowest}}, {"quantize": {"linears": "int8"}}]),
    }


def compress_all(model: str, out: Path, recipe: str, progress: Progress) -> dict[str, Compression]:
    """Each recipe's result in a folder of its own below `out`."""
    return {
        name: compress(model, out / name.replace(" ", "-"), recipe, progress, rival=False)
        for name, recipe in tour_recipes(recipe).items()
    }


def rows(model: str, done: Mapping[str, Compression]) -> list[Row]:
    """The dense model, its company, and every tier of the result."""
    first = done["all four"]
    whole = _read(open_checkpoint(done["int8 alone"].out), {})
    found = [_row("dense", FULL, open_checkpoint(model).weight_bytes, 1.0, first.original)]
    for name, each in reversed(list(done.items())):
        made = open_checkpoint(each.out)
        found.append(_row(name, FULL, each.bytes_after, _read(made, {}) / whole, each.result))
        for tier, figures in each.tiers.items():
            found.append(_row(name, tier, each.bytes_after, _read(made, figures) / whole, figures))
    return found


def measure_speeds(paths: Mapping[str, str | Path], points: Sequence[Row], progress: Progress) -> list[Row]:
    """The rows with the tokens per second of one stream, medians of rounds taken in turn."""
    models = {name: LLM(path) for name, path in paths.items()}
    seconds: list[list[float]] = [[] for _ in points]
    for turn in range(_ROUNDS + 1):
        for i, point in enumerate(points):
            began = time.perf_counter()
            models[point.name].generate(
                _PROMPT, max_new_tokens=_NEW_TOKENS if turn else 2, temperature=0.0, ignore_eos=True, tier=point.tier
            )
            if turn:
                seconds[i].append(time.perf_counter() - began)
        progress("rounds of tokens per second", turn + 1, _ROUNDS + 1)
    return [_with_speed(point, _NEW_TOKENS / median(each)) for point, each in zip(points, seconds, strict=True)]


def as_table(points: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """What people read: accuracy relative to the dense model."""
    dense = points[0]
    head = ["", "tier", "weights, MB", "bytes a token", "perplexity", "top-1", "of dense", "tokens/s"]
    cells = [
        [
            point.name, point.tier, f"{point.weight_bytes / 1e6:,.1f}",
            "as dense" if point is dense else f"{point.read:.3f} of int8", f"{point.perplexity:.2f}",
            f"{point.top1:.2%}", f"{point.top1 / dense.top1:.1%}",
            f"{point.tokens_per_second:,.4g}" if point.tokens_per_second else "",
        ]
        for point in points
    ]  # fmt: skip
    return head, cells


def write_report(
    points: Sequence[Row], model: str, machine: Mapping[str, Any], notes: Sequence[str], out: Path
) -> None:
    """Writes report.json and report.html, and report.png where matplotlib is installed."""
    title = f"{model}, on {machine['device']}"
    picture = draw(points, title) if can_draw() else b""
    figures = {"model": model, "machine": machine, "rows": [asdict(point) for point in points]}
    page = render("tour", title, tiers=as_table(points), notes=notes, picture=picture)
    files = {"report.json": json.dumps(figures, indent=2).encode() + b"\n", "report.html": page.encode()}
    write_files(out, files | ({"report.png": picture} if picture else {}))


def draw(points: Sequence[Row], title: str) -> bytes:
    """A PNG: accuracy relative to dense against the bytes that a token reads. Needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    panel = figure.subplots()
    dense, rest = points[0], points[1:]
    panel.axhline(100, color="#8a8f98", linewidth=1, label="dense")
    for name, (color, mark) in _MARKS.items():
        mine = sorted((point for point in rest if point.name == name), key=lambda point: point.read)
        panel.plot([p.read for p in mine], [100 * p.top1 / dense.top1 for p in mine], mark, color=color, label=name)
        for point in mine if name == "all four" else ():
            panel.annotate(
                point.tier,
                (point.read, 100 * point.top1 / dense.top1),
                textcoords="offset points",
                xytext=(6, -12),
            )
    panel.set_xlabel("part of the int8 model's bytes that a token reads")
    panel.set_ylabel("next-token accuracy, % of dense")
    panel.set_title(title, loc="left", fontsize=10)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, loc="lower right")
    return as_png(figure)


def _alone(recipe: Recipe, stages: list[dict[str, Any]]) -> dict[str, Any]:
    return {**recipe.model_dump(), "stages": stages}


def _row(name: str, tier: str, weight_bytes: int, read: float, figures: Mapping[str, float | int]) -> Row:
    return Row(name, tier, weight_bytes, read, figures["perplexity"], figures["top1_accuracy"])


def _with_speed(row: Row, rate: float) -> Row:
    return Row(row.name, row.tier, row.weight_bytes, row.read, row.perplexity, row.top1, rate)


def _read(checkpoint: Checkpoint, figures: Mapping[str, float | int]) -> int:
    """Bytes that a token reads of all weights, at the tier of these figures or at full."""
    shares = (figures.get("bytes_share", 1.0), figures.get("neurons_share", 1.0))
    return token_cost(checkpoint.spec, 2, shares=shares).bytes
