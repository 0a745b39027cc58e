"""The figures of the README are those of the files below bench/results/."""

import json
import re
from typing import Any

import pytest
from house import ROOT

README = (ROOT / "README.md").read_text()
RUN = json.loads((ROOT / "bench/results/smollm2-2-cpu-cores.json").read_text())
CURVES = json.loads((ROOT / "bench/results/retention/smollm2/curves.json").read_text())
ROWS = {
    "transformers, float32": ("transformers float32", ""),
    "transformers, bfloat16": ("transformers bfloat16", ""),
    "moesaic, bf16 weights": ("moesaic dense", "dense"),
    "moesaic, int8": ("moesaic int8", "int8"),
}


def cells(row: str) -> list[str]:
    """Of the README's table, the row that begins so."""
    line = next(line for line in README.splitlines() if line.replace("*", "").startswith(f"| {row} |"))
    return [cell.strip() for cell in line.replace("*", "").strip("|").split("|")][1:]


def expected(contestant: str, weights: str) -> list[str]:
    """The cells of a contestant, from the run's file."""
    kept: Any = RUN["retention"].get(weights or contestant, {})
    speed = RUN["engine"]["speed"][contestant]
    return [
        f"{RUN['bytes'][weights] / 1e6:.0f} MB" if weights else "",
        f"{kept['perplexity']:.3f}" if kept else "",
        f"{100 * kept['top1_accuracy']:.2f} %" if kept else "",
        *(f"{speed[batch]['tokens_per_second']:.0f}" for batch in ("1", "8")),
    ]


@pytest.mark.parametrize("row", ROWS)
def test_the_table_is_that_of_the_run(row: str) -> None:
    assert cells(row) == expected(*ROWS[row])


def test_the_limit_is_the_bandwidth_over_the_weights() -> None:
    limit = RUN["machine"]["read_bandwidth_gb_per_s"] * 1e9 / RUN["bytes"]["int8"]
    assert cells("the limit: int8 weights read once a token")[3] == f"{limit:.0f}"
    assert f"{RUN['retention']['int8']['tokens']:,} tokens of Python documentation" in README


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("high 4 bits, then 6", r"int8 model keeps ([\d.]+) %"),
        ("int4 to nearest, groups of 32", r"int4 in groups of 32 keeps ([\d.]+) % at 56 %"),
        ("TEAL", r"TEAL ([\d.]+) %"),
        ("Fisher pruning", r"static pruning\s+([\d.]+) %"),
    ],
)
def test_what_is_kept_is_that_of_the_curves(method: str, said: str) -> None:
    points = [point for point in CURVES["points"] if point["method"] == method and point["share"] == 0.55]
    found = re.search(said, README)
    assert found and found[1] == f"{100 * points[0]['top1_relative']['value']:.1f}"
