"""What drawing a step's tokens costs, side by side: greedy, temperature 1, with a cut, with penalties.

    python -m moesaic.bench.engine.benchmark_sampler --out report.json

Beside each stands the part that it is of a decode step of a real model, with greedy rows, measured in the same run.
Logits are about as peaked as those of SmolLM2-135M-Instruct when it speaks freely: for nine tenths of the probability
half of its steps need 44 tokens or fewer, and one in ten more than 724 (here 36 and 929). Every contestant draws from
fresh logits in each round, and the new tokens count for the penalties of the next.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from torch import Tensor

from ...engine.build import build_engine
from ...engine.drawing import Drawing
from ...engine.engine import Engine
from ...engine.options import EngineOptions
from ...engine.request import Request, Stopping
from ...engine.sampler import draw
from ...engine.sampling import Sampling
from ...evaluate.provenance import command_line
from ...models.errors import SetupError
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
STEPS = 40


@dataclass(frozen=True, slots=True)
class Figure:
    """The median over rounds, what it is more than greedy at its side, and that as a part of a decode step."""

    way: str
    batch: int
    vocabulary: int
    milliseconds: float
    over_greedy_milliseconds: float
    part_of_step: float | None = None


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


def step_milliseconds(model: str, batch: int, threads: int | None) -> float:
    """The median over decode steps of so many greedy rows, all that the engine does included."""
    engine = cast(Engine, build_engine(model, EngineOptions(num_slots=batch, threads=threads)).engine)
    for key in range(batch):
        prompt = tuple(range(100 + key, 100 + key + PROMPT_TOKENS // 8))
        engine.add(Request(key, prompt, Sampling(temperature=0), Stopping(2 * STEPS, ignore_eos=True)))
    while any(sequence.num_new < 3 for sequence in engine.scheduler.running) or len(engine.scheduler.waiting):
        engine.step()
    return 1e3 * median(seconds_of(engine.step) for _ in range(STEPS))


def beside_steps(figures: Sequence[Figure], steps: Mapping[int, float]) -> list[Figure]:
    """steps: milliseconds by batch."""
    return [
        replace(each, part_of_step=round(each.over_greedy_milliseconds / steps[each.batch], 4)) if steps else each
        for each in figures
    ]


def line_of(figure: Figure) -> str:
    what = f"{figure.vocabulary:>7} entries, batch {figure.batch}: {figure.way:<14}{figure.milliseconds:>9.3f} ms"
    part = "" if figure.part_of_step is None else f", {figure.part_of_step:.1%} of a step"
    return f"{what}, {figure.over_greedy_milliseconds:+.3f} over greedy{part}\n"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What drawing a step's tokens costs.")
    parser.add_argument("--out", type=Path, help="a JSON file")
    parser.add_argument("--model", default="smollm2", help="of the steps; default: %(default)s, where it is at hand")
    parser.add_argument("--rounds", type=int, default=200, metavar="N", help="default: %(default)s")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads")
    args = parser.parse_args(words)
    steps = steps_of(args.model, args.threads)
    if args.threads:
        torch.set_num_threads(args.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    figures = [each for v in VOCABULARIES for b in BATCHES for each in measure(b, v, args.rounds, device)]
    figures = beside_steps(figures, steps)
    sys.stdout.writelines(line_of(each) for each in figures)
    if args.out:
        facts = {**machine_facts(), "threads": torch.get_num_threads()}
        told = {"model": args.model, "step_milliseconds": steps} if steps else {}
        report = {
            "command": command_line(args.out),
            "machine": facts,
            "rounds": args.rounds,
            **told,
            "figures": [asdict(each) for each in figures],
        }
        write_whole(args.out, json.dumps(report, indent=1).encode() + b"\n")
    return 0


def steps_of(model: str, threads: int | None) -> dict[int, float]:
    """By batch; none, said on stderr, where the model is not at hand."""
    try:
        steps = {batch: round(step_milliseconds(model, batch, threads), 3) for batch in BATCHES}
    except SetupError as error:
        sys.stderr.write(f"no parts of a step: {error}\n")
        return {}
    for batch, milliseconds in steps.items():
        sys.stdout.write(f"a step of {model}, batch {batch}: {milliseconds:.2f} ms\n")
    return steps


if __name__ == "__main__":
    sys.exit(main())
