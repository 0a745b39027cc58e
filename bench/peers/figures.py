"""From seconds to figures: medians, how far below the machine's limit, and how many times a peer's speed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

Seconds = dict[tuple[str, int, int], list[float]]  # by contestant, threads and batch


@dataclass(frozen=True, slots=True)
class Measured:
    """What rounds gave. first: of a contestant and threads, seconds to the first token of the long prompt."""

    steps: int
    decode: Seconds = field(default_factory=dict)
    first: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)  # of the first row alone


def decode_figures(
    found: Measured, token_bytes: Mapping[str, int], bandwidth: Mapping[int, float], peers: Sequence[str]
) -> list[dict[str, Any]]:
    """A line for each contestant, number of threads and batch.

    limit: the tokens per second that reading the weights once a step would allow at the bytes per second that so many
    threads read. times: the speed as a multiple of each peer's in the same run.
    """
    rates = {key: sorted(key[2] * found.steps / each for each in seconds) for key, seconds in found.decode.items()}
    return [
        {
            "contestant": name, "threads": threads, "batch": batch,
            "tokens_per_second": round(median(rate), 2), "best_tokens_per_second": round(rate[-1], 2),
            "limit_tokens_per_second": round(batch * bandwidth[threads] / token_bytes[name], 1),
            "times": {peer: round(median(rate) / median(rates[peer, threads, batch]), 3) for peer in peers},
        }
        for (name, threads, batch), rate in rates.items()
    ]  # fmt: skip


def first_figures(found: Measured, peers: Sequence[str]) -> list[dict[str, Any]]:
    """Seconds to the first token; part: of each peer's seconds in the same run."""
    seconds = {key: median(each) for key, each in found.first.items()}
    return [
        {
            "contestant": name, "threads": threads, "seconds": round(each, 5),
            "part": {peer: round(each / seconds[peer, threads], 3) for peer in peers},
        }
        for (name, threads), each in seconds.items()
    ]  # fmt: skip


def alike(tokens: Mapping[str, Sequence[int]], reference: str) -> dict[str, int]:
    """How many tokens of each begin as the reference's: greedy paths of the same weights part where two were close."""
    return {name: _common(each, tokens[reference]) for name, each in tokens.items()}


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=True))
    return next((place for place, (mine, theirs) in pairs if mine != theirs), len(one))


def as_text(report: Mapping[str, Any]) -> str:
    """Two tables in Markdown, and who was skipped."""
    peers = report["peers"]
    head = ["", "threads", "batch", "tokens/s", "of limit", *(f"x {peer}" for peer in peers)]
    lines = [
        [
            row["contestant"], str(row["threads"]), str(row["batch"]), f"{row['tokens_per_second']:.1f}",
            f"{row['tokens_per_second'] / row['limit_tokens_per_second']:.0%}",
            *(f"{row['times'][peer]:.2f}" for peer in peers),
        ]
        for row in report["decode"]
    ]  # fmt: skip
    first_head = ["", "threads", f"first of {report['long_prompt_tokens']}, ms", *(f"of {peer}'s" for peer in peers)]
    first = [
        [row["contestant"], str(row["threads"]), f"{row['seconds'] * 1e3:.0f}"]
        + [f"{row['part'][peer]:.2f}" for peer in peers]
        for row in report["first_token"]
    ]
    skipped = [f"skipped: {why}" for why in report["skipped"].values()]
    return "\n".join([*_table(head, lines), "", *_table(first_head, first), *skipped]) + "\n"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| --- |{' ---: |' * (len(head) - 1)}"
    for line in lines:
        yield f"| {' | '.join(line)} |"
