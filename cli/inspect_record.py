"""What `moesaic inspect` shows of a model's record: its tiers, and the stages that made it, with all figures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .figures import ANSWER_FIGURES, VECTOR_FIGURES, cells
from .terminal import print_table

if TYPE_CHECKING:
    from ..models.record import Record, StageRecord

_KEPT = {  # figures of a text: what heads their column, and how they are written
    "perplexity": ("perplexity", "{:.4f}"),
    "top1_accuracy": ("top-1", "{:.2%}"),
    "kl_nats_per_token": ("KL, nats/token", "{:.5f}"),
    "top1_agreement": ("agreement", "{:.2%}"),
}
_READ = {"bytes_share": ("bytes read", "{:.3f}"), "neurons_share": ("neurons", "{:.3f}")}


def print_record(record: "Record") -> None:
    """Tables of the tiers and of the stages, where there are any, and which text they were scored on."""
    if record.tiers:
        print()
        print_table(*_tier_table(record))
    if not record.stages:
        return
    print()
    print_table(*_measured_table(record.stages))
    for line in _scored_on(record.stages):
        print(line)
    for what, rows in (("setting", _settings(record.stages)), ("found", _noted(record.stages))):
        if shown := [[name, key, _shown(value)] for name, key, value in rows if value is not None]:
            print()
            print_table(["stage", what, "value"], shown, left=3)


def _tier_table(record: "Record") -> tuple[list[str], list[list[str]]]:
    """A row a tier: what it was set to, what calibration saw, and what it reads and keeps on the evaluation text."""
    columns = {**_READ, **_columns(record.tiers[-1].measured)}
    seen = ["calibrated bytes", "calibrated neurons", "tokens"]
    rows = [
        [
            tier.name, f"{tier.share:g}", f"{tier.calibrated['bytes_share']:.3f}",
            f"{tier.calibrated['neurons_share']:.3f}", f"{tier.calibrated['tokens']:,}",
            *cells(tier.measured, columns),
        ]
        for tier in record.tiers
    ]  # fmt: skip
    return ["tier", "set to", *seen, *(head for head, _ in columns.values())], rows


def _measured_table(stages: Sequence["StageRecord"]) -> tuple[list[str], list[list[str]]]:
    """A row a stage: what the model weighs after it and keeps; before them the original, where it was scored."""
    original = next((found for stage in stages if (found := _figures(stage, "original"))), None)
    kept = _columns(original or {})
    rows = [["original", "", "", *cells(original, kept)]] if original else []
    for stage in stages:
        weight = cells(stage.measured, {"weight_bytes": ("", "{:,}")})
        rows.append([stage.name, str(stage.seed), *weight, *cells(_figures(stage, "result"), kept)])
    return ["after", "seed", "bytes of weights", *(head for head, _ in kept.values())], rows


def _columns(figures: Mapping[str, Any]) -> Mapping[str, tuple[str, str]]:
    """What is shown of a model, by what was measured: its vectors, its answers, or how it continues a text."""
    if "recall_at_1" in figures:
        return VECTOR_FIGURES
    return ANSWER_FIGURES if "exact_match" in figures else _KEPT


def _figures(stage: "StageRecord", of: str) -> Mapping[str, Any]:
    """What was measured after a stage of one model; nothing where it was not scored."""
    found = stage.measured.get(of)
    return found if isinstance(found, Mapping) else {}


def _scored_on(stages: Sequence["StageRecord"]) -> Iterator[str]:
    sizes = {"tokens": ("", "{:,}"), "documents": ("", "{:,}")}
    for tokens, documents in dict.fromkeys(tuple(cells(_figures(stage, "result"), sizes)) for stage in stages):
        if tokens and documents:
            yield f"scored on {tokens} tokens of {documents} documents"


def _settings(stages: Sequence["StageRecord"]) -> Iterator[tuple[str, str, Any]]:
    return ((stage.name, name, value) for stage in stages for name, value in _flat(stage.settings))


def _noted(stages: Sequence["StageRecord"]) -> Iterator[tuple[str, str, Any]]:
    return ((stage.name, name, value) for stage in stages for name, value in _flat(stage.notes))


def _flat(values: Mapping[str, Any], begin: str = "") -> Iterator[tuple[str, Any]]:
    """What stands in an object, and in the objects in it: `tiers.low`."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{begin}{name}.")
        else:
            yield f"{begin}{name}", value


def _shown(value: Any) -> str:
    """A value as a recipe writes it; numbers for each layer as their range, since JSON has all of them."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.5g}"
    if isinstance(value, list):
        return _range(value)
    return str(value)


def _range(values: Sequence[Any]) -> str:
    if values and all(isinstance(each, int | float) for each in values):
        ends = dict.fromkeys((_shown(min(values)), _shown(max(values))))
        return f"{' to '.join(ends)} in {len(values)} layers"
    return ", ".join(map(_shown, values))
