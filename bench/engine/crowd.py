"""Whether requests get in a crowd what each gets alone: tiers, temperatures, penalties, prefixes, chunks, preemption.

    python -m moesaic.bench.engine.crowd OUT.json [--requests N]

The model is stories260k in int8 with tiers of bit planes, compressed here: its linears give a row the same bits
whatever stands beside it, and so must the engine.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ...compress.pipeline import compress
from ...engine.engine import Engine
from ...engine.request import Request, Row, Stopping
from ...engine.runner import ModelRunner
from ...engine.sampling import Sampling
from ...evaluate.provenance import command_line
from ...models.checkpoint import load_transformer, open_checkpoint
from ...models.files import write_whole
from ...models.threads import torch_threads
from ...models.transformer import Transformer
from ..machine import machine_facts

RECIPE: dict[str, Any] = {
    "calibration": {"sequences": 24, "length": 48},
    "evaluation": {"documents": 1, "truncate": 24},
    "stages": [
        {"quantize": {"linears": "int8"}},
        {"moefy": {"router": "bit_planes", "expert_size": 1, "tiers": {"high": 0.7, "low": 0.5}}},
    ],
}
_CONTEXT, _BLOCKS, _CHUNK, _SLOTS = 128, 32, 48, 16  # so few blocks that many are preempted

Answers = dict[tuple[int, int], list[int]]  # tokens, by key and choice


def tiny_model() -> Transformer:
    """stories260k in int8 with two tiers below full."""
    with tempfile.TemporaryDirectory() as folder:
        compress("stories260k", Path(folder) / "moe", RECIPE)
        return load_transformer(open_checkpoint(Path(folder) / "moe"), torch.device("cpu"))


def requests(count: int, seed: int) -> list[Request]:
    """Some begin alike, some are long, some want several answers; no two are asked in the same way."""
    chance = random.Random(seed)
    common = [chance.randrange(3, 500) for _ in range(40)]
    found = []
    for key in range(count):
        beginning = common[: chance.choice([0, 0, 17, 40])]
        ids = (*beginning, *(chance.randrange(3, 500) for _ in range(chance.choice([1, 3, 20, 70]))))
        sampling = Sampling(
            temperature=chance.choice([0.0, 1.0, 1.0]), seed=key, top_p=chance.choice([1.0, 0.9]),
            repetition_penalty=chance.choice([1.0, 1.0, 1.3]), presence_penalty=chance.choice([0.0, 0.5]),
            n=chance.choice([1, 1, 1, 2]),
        )  # fmt: skip
        point = chance.choice([0.0, 1.0, 2.0, 1.5])
        stopping = Stopping(chance.randint(1, 30), ignore_eos=True)
        found.append(Request(key, ids, sampling, stopping, operating_point=point))
    return found


def small_engine(model: Transformer, slots: int, step_tokens: int = 512, blocks: int = _BLOCKS) -> Engine:
    """Over a pool of few blocks, in fp32."""
    return Engine(ModelRunner(model, blocks, _CONTEXT, torch.float32), num_slots=slots, step_tokens=step_tokens)


def served(engine: Engine, asked: list[Request]) -> tuple[Answers, list[Row]]:
    """The tokens of every answer, and the last rows. Raises RuntimeError where a block is lost or a request fails."""
    found: Answers = {}
    last = []
    for each in asked:
        engine.add(each)
    while engine.has_work:
        for row in engine.step():
            found.setdefault((row.key, row.choice), []).extend(row.token_ids)
            last += [row] if row.finish else []
    wrong = engine.scheduler.differences() + [row.error for row in last if row.error]
    if wrong:
        raise RuntimeError("; ".join(wrong))
    return found, last


def compared(model: Transformer, count: int, seed: int = 1) -> dict[str, Any]:
    """How many answers of a crowd are those that the same requests get alone."""
    began, asked = time.perf_counter(), requests(count, seed)
    with torch_threads(1):  # for a model so small
        crowd = small_engine(model, _SLOTS, _CHUNK)
        together, last = served(crowd, asked)
        alone: Answers = {}
        for each in asked:
            alone |= served(small_engine(model, slots=2), [each])[0]
    return {
        "requests": count, "answers": len(alone), "the_same": sum(together[place] == alone[place] for place in alone),
        "tokens": sum(map(len, alone.values())), "preempted": crowd.scheduler.num_preempted,
        "with_a_prefix_that_was_kept": sum(row.cached_tokens > 0 for row in last),
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip


def main() -> int:
    """Compares and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--requests", type=int, default=1000)
    args = parser.parse_args()
    found = {"command": command_line(args.out), "machine": machine_facts(), **compared(tiny_model(), args.requests)}
    write_whole(args.out, (json.dumps(found, indent=2) + "\n").encode())
    return 0 if found["the_same"] == found["answers"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
