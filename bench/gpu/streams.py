"""Section 6: the engine with 8 streams, requests following one another: tokens per second, and the waits of each.

python -m moesaic.bench.gpu.streams CONTESTANT --rows FILE       one contestant, as this section starts it
"""

import sys
import time
from dataclasses import dataclass, field
from statistics import median

import torch

from ...engine.engine import Engine
from ...engine.lockstep import Lockstep
from ...engine.request import FinishReason, Request, Stopping
from ...engine.runner import ModelRunner
from ...engine.sampling import Sampling
from ..energy import Stretch
from ..rounds import DEVICE, quiet
from .children import each_in_a_process
from .random_models import KINDS, LOW, random_model
from .rows import Row
from .section import Plan, attempt, run_section

STREAMS = 8
HOME = "moesaic.bench.gpu.streams"


@dataclass(frozen=True)
class Work:
    """requests: of every stream, one after the other."""

    prompt: int
    new: int
    requests: int


GPU, TOY = Work(128, 64, 3), Work(8, 6, 2)


@dataclass
class Seen:
    """When a request was added, and when each of its tokens came."""

    added: float
    tokens: list[float] = field(default_factory=list)


def measure(plan: Plan) -> None:
    if plan.name:
        shape, _, kind = plan.name.partition(" ")
        with quiet():
            attempt(plan, lambda: streamed(shape, kind, TOY if plan.dry else GPU), contestant=plan.name)
        return
    shape = "toy" if plan.dry else "smollm2-135m"
    each_in_a_process(plan, HOME, dict.fromkeys([f"{shape} {kind}" for kind in KINDS], 20.0))


def streamed(shape: str, kind: str, work: Work) -> Row:
    torch.manual_seed(0)
    dtype = torch.float32 if DEVICE == "cpu" else torch.bfloat16
    model = random_model(shape, kind, DEVICE, dtype)
    point = LOW if model.spec.num_tiers > 1 else 0
    context = work.prompt + work.new
    runner = ModelRunner(model, Lockstep.blocks(context, STREAMS), context, dtype)
    served(Engine(runner, num_slots=STREAMS), work, point, rounds=1)  # compiles whatever there is to compile
    stretch = Stretch()
    seen = served(Engine(runner, num_slots=STREAMS), work, point, rounds=work.requests)
    taken, spent = stretch.seconds, stretch.figures(sum(len(each.tokens) for each in seen))
    first = sorted(each.tokens[0] - each.added for each in seen)
    between = sorted(b - a for each in seen for a, b in zip(each.tokens, each.tokens[1:], strict=False))
    count = sum(len(each.tokens) for each in seen)
    return {
        "streams": STREAMS, "operating_point": point, "requests": len(seen), "prompt_tokens": work.prompt,
        "new_tokens": work.new,
        "tokens_per_second": count / taken, "ttft_ms_p50": median(first) * 1e3, "ttft_ms_p95": _at(first, 0.95) * 1e3,
        "itl_ms_p50": median(between) * 1e3, "itl_ms_p95": _at(between, 0.95) * 1e3, **spent,
    }  # fmt: skip


def served(engine: Engine, work: Work, point: int, rounds: int) -> list[Seen]:
    """Runs so many rounds of requests: when one ends, its stream sends the next."""
    seen: dict[int, Seen] = {}

    def add(key: int) -> None:
        prompt = tuple((key * 31 + i) % 251 for i in range(work.prompt))
        stopping = Stopping(work.new, ignore_eos=True)
        engine.add(Request(key, prompt, Sampling(temperature=0.0), stopping, operating_point=point))
        seen[key] = Seen(time.perf_counter())

    for stream in range(STREAMS):
        add(stream)
    while engine.has_work:
        for row in engine.step():
            now = time.perf_counter()
            if row.finish is FinishReason.FAILED:
                raise RuntimeError(row.error)
            seen[row.key].tokens += [now] * len(row.token_ids)
            if row.finish and row.key + STREAMS < STREAMS * rounds:
                add(row.key + STREAMS)
    return list(seen.values())


def _at(values: list[float], share: float) -> float:
    """A quantile of what is sorted."""
    return values[min(len(values) - 1, int(share * len(values)))]


if __name__ == "__main__":
    sys.exit(run_section(measure))
