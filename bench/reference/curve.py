"""The loss curve of a run: curve.json and curve.png."""

import json
from pathlib import Path
from typing import Any

from ...compress.schedule import learning_rate
from ...evaluate.files import as_png
from .description import Description
from .state import RunState

_POINTS = 400
_TRAIN, _VALID, _RATE = "#8a8f98", "#0f7b6c", "#d9a441"


def curve_of(progress: RunState, description: Description) -> dict[str, Any]:
    """Training loss as means over equal runs of steps, validation loss as it was measured; nats per token."""
    tokens = description.batch * description.context
    size = max(1, -(-len(progress.losses) // _POINTS))
    parts = [progress.losses[i : i + size] for i in range(0, len(progress.losses), size)]
    ends = [min((i + 1) * size, len(progress.losses)) for i in range(len(parts))]
    return {
        "tokens_per_step": tokens,
        "train": {
            "tokens": [end * tokens for end in ends],
            "nats_per_token": [round(sum(part) / len(part), 5) for part in parts],
        },
        "valid": {
            "tokens": [int(step) * tokens for step, _ in progress.valid],
            "nats_per_token": [round(loss, 5) for _, loss in progress.valid],
        },
    }


def final_loss(progress: RunState) -> float:
    """The mean training loss of the last hundredth of the steps, at least 20 of them."""
    recent = progress.losses[-max(20, len(progress.losses) // 100) :]
    return sum(recent) / len(recent)


def write_curve(folder: Path, progress: RunState, description: Description, name: str) -> None:
    """curve.json, and curve.png where matplotlib is installed."""
    curve = curve_of(progress, description)
    (folder / "curve.json").write_text(json.dumps(curve, indent=1) + "\n")
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return
    figure = Figure(figsize=(8, 4.6), dpi=110, layout="constrained")
    panel = figure.subplots()
    for part, color, label in (("train", _TRAIN, "training"), ("valid", _VALID, "validation")):
        values = curve[part]
        millions = [tokens / 1e6 for tokens in values["tokens"]]
        mark = "o-" if part == "valid" and len(millions) < 40 else "-"
        if millions:
            panel.plot(millions, values["nats_per_token"], mark, color=color, label=label, markersize=3)
    panel.set(xlabel="million tokens", ylabel="nats per token", title=name)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False)
    (folder / "curve.png").write_bytes(as_png(figure))


def schedule_of(description: Description, progress: RunState) -> dict[str, float]:
    """Steps of warm-up, the highest learning rate, and that of the last step."""
    last = learning_rate(
        progress.plan, max(progress.step - 1, 0), description.learning_rate, description.final_share,
        description.warmup_steps,
    )  # fmt: skip
    warmup = min(description.warmup_steps, progress.plan.last // 10)
    return {"warmup_steps": warmup, "peak": description.learning_rate, "last": float(f"{last:.2g}")}
