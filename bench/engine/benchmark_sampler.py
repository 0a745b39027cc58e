"""What drawing a step's tokens costs, side by side: greedy, temperature 1, with a cut, with penalties.

    python -m moesaic.bench.engine.benchmark_sampler --out report.json

Logits are about as peaked as those of SmolLM2-135M-Instruct when it speaks freely: for nine tenths of the probability
half of its steps need 44 tokens or fewer, and one in ten more than 724 (here 36 and 929). Every contestant draws from
fresh logits in each round, and the new tokens count for the penalties
of the next. A ratio is judged beside a whole step, which the engine measures.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ...engine.drawing import Drawing
from ...engine.request import Request
from ...engine.sampler import draw
from ...engine.sampling import Sampling
from ...models.files import write_whole
from ..clock import seconds_of
from ..machine import machine_facts

BATCHES = (1, 8)
VOCABULARIES = (49_152, 128_256)
WAYS: Mapping[str, Mapping[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature 1": {},
    "top-p 0.9": {"top_p": 0.9},
    "top-k 50": {"top_k": 50},
    "min-p 0.05": {"min_p": 0.05},
    "typical 0.9": {"typical_p": 0.9},
    "all penalties": {"repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.2},
    "logprobs 20": {"temperature": 0.0, "logprobs": 20},
}
PROMPT_TOKENS = 512
LOGITS = 16  # sets of logits that rounds take in turn


@dataclass(frozen=True, slots=True)
class Figure:
    """The median over rounds, and what it is more than greedy at its side."""

    way: str
    batch: int
    vocabulary: int
    milliseconds: float
    over_greedy_milliseconds: float


def peaked(rows: int, vocabulary: int, seed: int) -> Tensor:
    """Logits [rows, vocabulary] that fall with the rank, each row as steeply at first as chance will."""
    generator = torch.Generator().manual_seed(seed)
    rank = torch.arange(1, vocabulary + 1).log()
    falling = -(0.3 + 1.6 * torch.rand(rows, 1, generator=generator)) * rank - 0.08 * rank**2
    order = torch.stack([torch.randperm(vocabulary, generator=generator) for _ in range(rows)])
    return falling.gather(1, order)


def drawings(options: Mapping[str, Any], rows: int) -> list[Drawing]:
    prompt, sampling = tuple(range(PROMPT_TOKENS)), Sampling(seed=1, **options)
    return [Drawing(Request(key, prompt, sampling), 0, key) for key in range(rows)]


def measure(batch: int, vocabulary: int, rounds: int, device: str) -> list[Figure]:
    """All ways in turns, so that what disturbs the machine disturbs all alike."""
    logits = [peaked(batch, vocabulary, seed).to(device) for seed in range(LOGITS)]
    rows = {way: drawings(options, batch) for way, options in WAYS.items()}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(-3, rounds):
        for way, members in rows.items():
            took = _timed(logits[number % LOGITS], members)
            if number >= 0:
                seconds[way].append(took)
    least = median(seconds["greedy"])
    return [
        Figure(way, batch, vocabulary, round(1e3 * median(took), 4), round(1e3 * (median(took) - least), 4))
        for way, took in seconds.items()
    ]


def _timed(logits: Tensor, members: Sequence[Drawing]) -> float:
    found: list[int] = []

    def step() -> None:
        found.extend(drawn.token for drawn in draw(logits, members))
        for drawing, token in zip(members, found, strict=True):
            drawing.take(token)

    return seconds_of(step)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What drawing a step's tokens costs.")
    parser.add_argument("--out", type=Path, help="a JSON file")
    parser.add_argument("--rounds", type=int, default=200, metavar="N", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    args = parser.parse_args(words)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    figures = [each for v in VOCABULARIES for b in BATCHES for each in measure(b, v, args.rounds, device)]
    for each in figures:
        line = f"{each.vocabulary:>7} entries, batch {each.batch}: {each.way:<14}{each.milliseconds:>9.3f} ms"
        sys.stdout.write(f"{line}, {each.over_greedy_milliseconds:+.3f} over greedy\n")
    if args.out:
        facts = {**machine_facts(), "threads": torch.get_num_threads()}
        report = {"machine": facts, "rounds": args.rounds, "figures": [asdict(each) for each in figures]}
        write_whole(args.out, json.dumps(report, indent=1).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
