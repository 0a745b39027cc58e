"""The figures of models with an encoder in tables: by name the head of a column, and how a number is shown."""

from collections.abc import Mapping
from typing import Any

VECTOR_FIGURES = {
    "mean_cosine": ("mean cosine", "{:.5f}"),
    "least_cosine": ("least cosine", "{:.5f}"),
    "recall_at_1": ("found first", "{:.2%}"),
    "mean_reciprocal_rank": ("1 / rank", "{:.4f}"),
}
ANSWER_FIGURES = {
    "perplexity": ("perplexity", "{:.4f}"),
    "top1_accuracy": ("same tokens", "{:.2%}"),
    "exact_match": ("same answers", "{:.2%}"),
}


def cells(figures: Mapping[str, Any], columns: Mapping[str, tuple[str, str]]) -> list[str]:
    """One figure a column; empty where it was not measured."""
    values = ((figures.get(name), form) for name, (_, form) in columns.items())
    return [form.format(value) if isinstance(value, int | float) else "" for value, form in values]
