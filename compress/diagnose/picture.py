"""A diagnosis as one picture: sparsity, use, active share, union and recall, over the layers."""

from statistics import median
from typing import Any

from ...evaluate.files import as_png
from .diagnosis import Diagnosis
from .usage import LayerUsage, mean_unions

_COLORS = ("#0f7b6c", "#2f4b7c", "#d9a441", "#8a8f98")


def draw(diagnosis: Diagnosis, title: str) -> bytes:
    """A PNG: one panel for a dense model, six for one with tiers. Needs matplotlib."""
    from matplotlib.figure import Figure

    columns = 3 if diagnosis.tiers else 1
    figure = Figure(figsize=(4.6 * columns + 0.6, 3.4 * (2 if diagnosis.tiers else 1)), dpi=110, layout="constrained")
    panels = figure.subplots(2 if diagnosis.tiers else 1, columns, squeeze=False).flatten()
    _activity(panels[0], diagnosis)
    for i, (name, layers) in enumerate(diagnosis.tiers.items()):
        _tier(panels[1:], name, layers, _COLORS[i % len(_COLORS)])
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        if panel.get_legend_handles_labels()[1]:
            panel.legend(frameon=False, fontsize=8)
    figure.suptitle(f"{title}, on {diagnosis.tokens:,} tokens of {diagnosis.text}", fontsize=11)
    return as_png(figure)


def _activity(panel: Any, diagnosis: Diagnosis) -> None:
    layers = diagnosis.layers
    _over_layers(panel, "neurons, %", len(layers))
    panel.plot([100 * layer.inactive for layer in layers], "o-", color=_COLORS[0], label="inactive, of a token")
    dead = [100 * len(layer.dead) / layer.neurons for layer in layers]
    panel.plot(dead, "s--", color=_COLORS[2], label="dead")


def _tier(panels: Any, name: str, layers: tuple[LayerUsage, ...], color: str) -> None:
    numbers = range(len(layers))
    _over_layers(panels[0], "experts a token uses, % (10th to 90th percentile)", len(layers))
    panels[0].plot([100 * layer.k_mean for layer in layers], "o-", color=color, label=name)
    low, high = ([100 * k for k in values] for values in zip(*((x.k_p10, x.k_p90) for x in layers), strict=True))
    panels[0].fill_between(numbers, low, high, color=color, alpha=0.15, linewidth=0)
    _over_layers(panels[1], "tokens that use an expert, % (min, median, max)", len(layers))
    for figure, style in ((median, "o-"), (min, ":"), (max, ":")):
        values = [100 * figure(layer.usage) for layer in layers]
        panels[1].plot(values, style, color=color, label=name if figure is median else None)
    _union(panels[2], name, layers, color)
    _over_layers(panels[3], "recall of the perfect router's experts, %", len(layers))
    panels[3].plot([100 * layer.recall for layer in layers], "o-", color=color, label=name)
    _over_layers(panels[4], "norm captured, % (dotted: perfect router)", len(layers))
    panels[4].plot([100 * layer.captured for layer in layers], "o-", color=color, label=name)
    panels[4].plot([100 * layer.perfect for layer in layers], ":", color=color)


def _union(panel: Any, name: str, layers: tuple[LayerUsage, ...], color: str) -> None:
    _named(panel, "experts used together, % (dotted: by chance)", "consecutive tokens")
    unions = mean_unions(layers)
    panel.plot([100 * real for real, _ in unions.values()], "o-", color=color, label=name)
    panel.plot([100 * chance for _, chance in unions.values()], ":", color=color)
    panel.set_xticks(range(len(unions)), [str(size) for size in unions])


def _over_layers(panel: Any, title: str, count: int) -> None:
    _named(panel, title, "layer")
    panel.set_xticks(range(0, count, -(-count // 12)))


def _named(panel: Any, title: str, axis: str) -> None:
    panel.set_title(title, loc="left", fontsize=9)
    panel.set_xlabel(axis, fontsize=9)
    panel.set_ylim(0, 103)
