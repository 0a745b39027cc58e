"""Section 5: decode steps of whole models at batch 1 and 8, and of transformers on the same shape.

    python -m moesaic.bench.gpu.end_to_end CONTESTANT --rows FILE       one contestant, as this section starts it

Module by module, eager is a pass with its tokens brought to the host each time, by the host's clock, and as a graph one
such pass replayed at one place of the context, by the device's. A step is what the engine makes of plain requests: few
launches (models/device_step.py) and the sampler in a form of fixed size, which is a graph on a GPU, with the tokens
brought to the host, and then replayed alone.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from ...engine.form import Form, Forms
from ...engine.lockstep import Lockstep
from ...engine.paged_context import PagedContext, tokens_of
from ...engine.runner import ModelRunner
from ...models.device_step import DeviceStep
from ..clock import replayed, samples_of
from ..energy import energy_of
from ..rounds import DEVICE, quiet
from .children import each_in_a_process
from .random_models import KINDS, LOW, SHAPES, random_model, weight_bytes
from .rows import Row
from .section import Plan, attempt, run_section

BATCHES = (1, 8)
PEER = "transformers"
CONTEXT = 128  # tokens that a slot holds before the steps that are timed
HOME = "moesaic.bench.gpu.end_to_end"


def measure(plan: Plan) -> None:
    if plan.name:
        shape, _, kind = plan.name.partition(" ")
        with quiet():
            torch.manual_seed(0)
            (peer if kind == PEER else ours)(plan, shape, kind)
        return
    shapes = ["toy"] if plan.dry else ["smollm2-135m", "llama-3-8b"]
    names = [f"{shape} {kind}" for shape in shapes for kind in (*KINDS, PEER)]
    each_in_a_process(plan, HOME, dict.fromkeys(names, 25.0))


def ours(plan: Plan, shape: str, kind: str) -> None:
    dtype = torch.float32 if DEVICE == "cpu" else torch.bfloat16
    model = random_model(shape, kind, DEVICE, dtype)
    # bit planes and tiles spend less at their low tier; the full one is that of int8
    point = LOW if model.spec.num_tiers > 1 else 0
    context, most = CONTEXT + 128, max(BATCHES)
    facts = {"contestant": plan.name, "weight_bytes": weight_bytes(model), "context": CONTEXT, "operating_point": point}
    for programmed in (False, True):  # a program packs the weights: whoever computes module by module goes first
        runner = ModelRunner(model, Lockstep.blocks(context, most), context, dtype, programmed=programmed)
        rows = Lockstep(runner, most, context)
        if programmed:
            facts |= {"launches": launches_of(runner, point), "without_program": runner.without_program}
        for batch in BATCHES:
            fill(rows, batch, point)
            for how, way in ways_of(programmed).items():
                attempt(plan, lambda way=way, batch=batch: way(rows, batch, point, plan), **facts, batch=batch, how=how)  # type: ignore[misc]  # noqa: B023


Way = Callable[[Lockstep, int, int, Plan], Row]


def ways_of(programmed: bool) -> Mapping[str, Way]:
    if not programmed:
        return {"modules, eager": eager, f"modules, {'graph' if DEVICE == 'cuda' else 'forward'}": captured}
    return {"a step": stepped} | ({"a step, graph": replayed_step} if DEVICE == "cuda" else {})


def launches_of(runner: ModelRunner, point: int) -> int | None:
    """Of kernels, in a step of a row at that tier, where it is made of launches."""
    step = runner.program
    return step.program.num_launches(full=point == 0) if isinstance(step, DeviceStep) else None


def stepped(rows: Lockstep, batch: int, point: int, plan: Plan) -> Row:
    """Steps as the engine makes them, each waiting for its tokens; the shares are what tiers govern."""
    forms, last, steps = Forms(rows.runner), [1] * batch, 4 if plan.dry else 32
    taken, shares = [], []
    for step in range(-3, steps):  # compiles, captures, and once more
        began = time.perf_counter()
        drawn = forms.step(rows.spans(last, CONTEXT + max(0, step), point), [0.0] * batch, [0.0] * batch)
        if not all(each.finite for each in drawn):
            raise ValueError("the logits are not finite")
        last = [each.token for each in drawn]
        if step >= 0:
            taken.append(time.perf_counter() - began)
            shares += [each.beside[0] for each in drawn if each.beside]
    spans = rows.spans(last, CONTEXT + steps - 1, point)
    spent = energy_of(lambda: forms.step(spans, [0.0] * batch, [0.0] * batch), batch)
    found = in_milliseconds(taken, batch) | spent
    return {**found, "share_of_bytes": sum(shares) / len(shares)} if shares else found


def replayed_step(rows: Lockstep, batch: int, point: int, plan: Plan) -> Row:
    spans = rows.spans([1] * batch, CONTEXT, point)
    form = Form(rows.runner, Forms(rows.runner).size_for(spans))
    form.fill(spans, [0.0] * batch, [0.0] * batch)
    for _ in range(2):
        form.outcome()
    if form.graph is None:
        raise RuntimeError("the step is no graph")
    return in_milliseconds(samples_of(form.graph.replay, 0.3), batch)


def fill(rows: Lockstep, batch: int, point: int) -> None:
    prompt = torch.randint(0, rows.runner.vocab_size, (CONTEXT,)).tolist()
    for row in range(batch):
        rows.prefill(row, prompt, point)


def eager(rows: Lockstep, batch: int, point: int, plan: Plan) -> Row:
    """Steps as the engine makes them, each waiting for its tokens; the shares are what the FFNs used."""
    last, steps = [1] * batch, 4 if plan.dry else 32
    rows.decode(last, CONTEXT, point)
    taken, shares = [], []
    for step in range(steps):
        began = time.perf_counter()
        done = rows.decode(last, CONTEXT + step, point)
        last = done.logits.argmax(-1).tolist()
        taken.append(time.perf_counter() - began)
        shares += [] if done.shares is None else [share for share, _ in done.shares.tolist()]
    if not bool(done.logits.isfinite().all()):
        raise ValueError("the logits are not finite")
    found = in_milliseconds(taken, batch)
    return {**found, "share_of_ffn_bytes": sum(shares) / len(shares)} if shares else found


def captured(rows: Lockstep, batch: int, point: int, plan: Plan) -> Row:
    forward(rows, [point] * batch)()  # with an account of its own: a graph must not hold what goes away
    step = forward(rows, [point] * batch)
    return in_milliseconds(samples_of(replayed(step) if DEVICE == "cuda" else step, 0.3), batch)


def forward(rows: Lockstep, points: Sequence[int]) -> Callable[[], Tensor]:
    """One decode step, a row for each operating point, over inputs that are on the device: logits [rows, vocab]."""
    runner, count = rows.runner, len(points)
    model = runner.model
    ids = torch.ones(count, 1, dtype=torch.int64, device=runner.device)
    place = min(CONTEXT, runner.max_context - 1)
    tokens = tokens_of([(span.start, 1, span.table) for span in rows.spans([1] * count, place)], runner.device)
    context = PagedContext(runner.pages, tokens)
    compute = model.compute_of(points) if model.spec.num_tiers > 1 else None
    return lambda: model.head(model.hidden(ids, tokens.positions.unsqueeze(1), context, compute)[:, 0])


def in_milliseconds(seconds: list[float], batch: int) -> Row:
    found = median(seconds)
    return {
        "ms_per_step": found * 1e3, "best_ms_per_step": min(seconds) * 1e3, "tokens_per_second": batch / found,
        "samples": len(seconds),
    }  # fmt: skip


def peer(plan: Plan, shape: str, kind: str) -> None:
    """The same shape by transformers in bf16: steps with its cache that grows, and with its static one in a graph."""
    import transformers

    dtype = torch.float32 if DEVICE == "cpu" else torch.bfloat16
    values = {key: value for key, value in SHAPES[shape].items() if key != "model_type"}
    config = transformers.LlamaConfig(**values)
    with torch.device(DEVICE):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    size = sum(value.nbytes for value in model.parameters())
    for batch in BATCHES:
        facts = {"contestant": plan.name, "weight_bytes": size, "context": CONTEXT, "batch": batch}
        attempt(plan, lambda batch=batch: growing(model, batch, plan), **facts, how="eager")  # type: ignore[misc]
        # another project's forward pass may not allow it: then it has no figure, and that is no failure of ours
        try:
            found: Row = static(model, config, batch)
        except Exception as error:
            found = {"skipped": f"{type(error).__name__}: {str(error)[:300]}"}
        plan.rows.add(**facts, how="static cache, graph" if DEVICE == "cuda" else "static cache, forward", **found)


def growing(model: Any, batch: int, plan: Plan) -> Row:
    ids = torch.ones(batch, CONTEXT, dtype=torch.int64, device=DEVICE)
    done = model(input_ids=ids, use_cache=True)
    cache, last = done.past_key_values, done.logits[:, -1:].argmax(-1)
    taken = []
    for _ in range(4 if plan.dry else 32):
        began = time.perf_counter()
        done = model(input_ids=last, past_key_values=cache, use_cache=True)
        last = done.logits[:, -1:].argmax(-1)
        last.tolist()
        taken.append(time.perf_counter() - began)
    return in_milliseconds(taken, batch)


def static(model: Any, config: Any, batch: int) -> Row:
    import transformers

    cache = transformers.StaticCache(config=config, max_cache_len=CONTEXT + 128)
    ids = torch.ones(batch, CONTEXT, dtype=torch.int64, device=DEVICE)
    model(input_ids=ids, past_key_values=cache, use_cache=True)
    last = torch.ones(batch, 1, dtype=torch.int64, device=DEVICE)
    places = torch.full((batch, 1), CONTEXT, device=DEVICE)

    def step() -> Any:
        return model(input_ids=last, position_ids=places, past_key_values=cache, use_cache=True).logits

    step()
    return in_milliseconds(samples_of(replayed(step) if DEVICE == "cuda" else step, 0.3), batch)


if __name__ == "__main__":
    sys.exit(run_section(measure))
