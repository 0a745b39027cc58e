"""Instructions of the C++ that runs a pass of a model on a CPU, beside torch's operation for each, and a whole step.

    pytest bench/benchmark_native_program.py

An instruction is measured in programs of CALLS alike; torch's are called as often from Python, as a model's modules do.
What stands between the products of a step is small, and stays in caches: calls are the limit. Products have files of
their own (`ELSEWHERE`). The step is of random weights, eight layers of SmolLM2-135M and its head: its limit is to read
them once.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

# Absolute, since pytest imports this file outside the package.
from moesaic.bench.gpu.random_models import EIGHT_LAYERS, int8_bytes
from moesaic.bench.ops.point import Point, Prepare, timed
from moesaic.bench.ops.steps import PAST, step_round
from moesaic.bench.rounds import DEVICE, Round, rotated
from moesaic.kernels.cost import Cost
from moesaic.kernels.instructions import Choice
from moesaic.kernels.native import native
from moesaic.kernels.native_program import Asked, Beside, Program
from moesaic.kernels.paged_attention import BLOCK_TOKENS, KVPages, PagedTokens, paged_attention_cost
from moesaic.models.rope import rotate, rotation

HIDDEN, WIDTH, HEADS, KV_HEADS, SIZE = 576, 1536, 9, 3, 64
EXPERTS, ACTIVE = 8, 2
CALLS = 30  # layers
SHAPE = "smollm2-8-layers"
ELSEWHERE = {  # kinds of instructions whose C++ is called by operations too
    "digit": "digit_linear", "graded": "graded_linear", "dense": "dense_linear", "planes": "plane_ffn",
    "experts": "expert_ffn",
}  # fmt: skip
Write = Callable[[Program], None]


def programmed(write: Write, rows: int, width: int) -> Round:
    """A program of CALLS alike over random rows at position PAST, each in blocks of its own, and sources in them."""
    library = native()
    if library is None or DEVICE != "cpu":
        raise NotImplementedError("programs are run by the C++ library, on a CPU")
    program = Program(library, width)
    for _ in range(CALLS):
        write(program)
    program.gather(program.output, program.place(program.output.width))
    blocks = PAST // BLOCK_TOKENS + 1
    tables = torch.arange(rows * blocks, dtype=torch.int32).view(rows, blocks)
    row, positions = torch.arange(rows, dtype=torch.int32), torch.full((rows,), PAST, dtype=torch.int32)
    tokens, turn = PagedTokens(tables, row, positions, [1] * rows, PAST + 1), turns()
    x, asked, kept = torch.randn(rows, width), Asked(torch.zeros(rows), rows), torch.arange(rows)

    def run() -> None:
        program.run(x.clone(), tokens, turn, asked, kept, torch.get_num_threads(), Beside(tokens))

    run()
    return run, CALLS


def turns() -> tuple[Tensor, Tensor]:
    cosine, sine = rotation(torch.arange(PAST + 1).unsqueeze(0), 1e4 ** -torch.linspace(0, 1, SIZE // 2), torch.float32)
    return cosine[0, 0].contiguous(), sine[0, 0].contiguous()


def called(call: Callable[[], object]) -> Round:
    """CALLS calls of torch's."""
    return rotated(lambda: call, float("inf"), CALLS)


def write_norm(program: Program) -> None:
    program.norm(program.input, program.place(HIDDEN), torch.ones(HIDDEN), None, 1e-5, layer=False)


def write_rotate(program: Program) -> None:
    program.rotate(program.input, SIZE, SIZE)


def write_activate(program: Program) -> None:
    gate, up = program.input.columns(0, WIDTH), program.input.columns(WIDTH, WIDTH)
    program.activate(up, program.place(WIDTH), "silu", gate)


def write_add(program: Program) -> None:
    """Of rows at the full tier, which all of them are."""
    target = program.place(HIDDEN)
    program.among("full")
    program.add(program.input, target)
    program.among("all")
    program.output = target


def write_scale(program: Program) -> None:
    program.scale(program.input, program.place(HIDDEN), 0.5)


def write_shift(program: Program) -> None:
    target = program.place(HIDDEN)
    program.shift(program.input, torch.ones(HIDDEN))
    program.gather(program.input, target)


def write_gather(program: Program) -> None:
    program.gather(program.input, program.place(HIDDEN))


def write_mixture(program: Program) -> None:
    """Which experts, and the way of rows to them and back; the experts do nothing."""
    scores, source = program.input.columns(0, EXPERTS), program.input.columns(EXPERTS, HIDDEN)
    parts, total, taken = program.place(EXPERTS), program.place(HIDDEN), program.place(HIDDEN)
    program.choose_experts(scores, parts, total, Choice(ACTIVE, True, None, 0.0, 1, 0))
    for expert in range(EXPERTS):
        program.take(source, taken, parts, expert)
        program.give(taken, total, parts, expert)
    program.output = total


def torch_mixture(x: Tensor) -> Tensor:
    """As transformers routes the tokens of Mixtral."""
    chance, source = x[:, :EXPERTS].softmax(-1), x[:, EXPERTS:]
    top, chosen = chance.topk(ACTIVE, dim=-1)
    top, total = top / top.sum(-1, keepdim=True), torch.zeros_like(source)
    for expert in range(EXPERTS):
        row, place = torch.where(chosen == expert)
        total.index_add_(0, row, source[row] * top[row, place, None])
    return total


def pages_of(rows: int) -> Iterator[KVPages]:
    """Of each layer, its own."""
    shape = (rows * (PAST // BLOCK_TOKENS + 1), KV_HEADS, BLOCK_TOKENS, SIZE)
    return iter([KVPages(torch.randn(shape), torch.randn(shape)) for _ in range(CALLS)])


def looks_up(rows: int) -> Round:
    """Attention to a source that was read."""
    pages = pages_of(rows)

    def write(program: Program) -> None:
        program.look_up(program.input, program.place(HEADS * SIZE), next(pages), SIZE)

    return programmed(write, rows, HEADS * SIZE)


def keeps(rows: int) -> Round:
    """Stores of what was read of a source."""
    pages = pages_of(rows)

    def write(program: Program) -> None:
        key, value = (program.input.columns(i * KV_HEADS * SIZE, KV_HEADS * SIZE) for i in range(2))
        program.keep(key, value, next(pages), SIZE)

    return programmed(write, rows, 2 * KV_HEADS * SIZE)


def attends(rows: int) -> Round:
    """Stores its own, and attends."""
    pages = pages_of(rows)

    def write(program: Program) -> None:
        heads, ours = HEADS * SIZE, KV_HEADS * SIZE
        query, key = program.input.columns(0, heads), program.input.columns(heads, ours)
        value = program.input.columns(heads + ours, ours)
        program.attend(query, key, value, program.place(heads), next(pages), SIZE)

    return programmed(write, rows, (HEADS + 2 * KV_HEADS) * SIZE)


def torch_attends(rows: int, stores: bool = True, reads: bool = True) -> Round:
    """Stores into contiguous keys, and attends: the heads of a group as tokens of one head."""
    query = torch.randn(rows, KV_HEADS, HEADS // KV_HEADS, SIZE)
    key, value = (torch.randn(rows, KV_HEADS, 1, SIZE) for _ in range(2))

    def layer() -> Callable[[], Tensor]:
        keys, values = (torch.randn(rows, KV_HEADS, PAST + 1, SIZE) for _ in range(2))

        def call() -> Tensor:
            if stores:
                keys[:, :, PAST:], values[:, :, PAST:] = key, value
            return functional.scaled_dot_product_attention(query, keys, values) if reads else keys

        return call

    return rotated(layer, float("inf"), CALLS)


def instruction_points(rows: int) -> Iterator[Point]:
    """One for every kind of instruction that is no product."""
    x, wide, both = (torch.randn(rows, width) for width in (HIDDEN, 2 * WIDTH, EXPERTS + HIDDEN))
    weight, total, heads = torch.ones(HIDDEN), torch.zeros(rows, HIDDEN), torch.randn(rows, HEADS, 1, SIZE)
    cosine, sine = (each[PAST].view(1, 1, 1, SIZE) for each in turns())
    every = torch.arange(rows)
    small: list[tuple[str, Write, int, int, Callable[[], object]]] = [
        ("norm", write_norm, HIDDEN, 2, lambda: functional.rms_norm(x, (HIDDEN,), weight, 1e-5)),
        ("rotate", write_rotate, HIDDEN, 2, lambda: rotate(heads, cosine, sine)),
        ("activate", write_activate, 2 * WIDTH, 2, lambda: functional.silu(wide[:, :WIDTH]) * wide[:, WIDTH:]),
        ("add, among", write_add, HIDDEN, 3, lambda: total.add_(x)),
        ("scale", write_scale, HIDDEN, 2, lambda: x * 0.5),
        ("shift, gather", write_shift, HIDDEN, 5, lambda: x.add_(weight)[every]),
        ("gather", write_gather, HIDDEN, 2, lambda: x[every]),
        ("choose, take, give", write_mixture, EXPERTS + HIDDEN, 2 * ACTIVE, lambda: torch_mixture(both)),
    ]
    for kind, write, width, moved, call in small:
        rounds = {"native_program": partial(programmed, write, rows, width), "torch": partial(called, call)}
        yield Point(f"{kind}, {rows} rows", Cost(4 * rows * width * moved, 2 * rows * width), rounds)
    one = paged_attention_cost(1, HEADS, KV_HEADS, SIZE, PAST + 1, 4)
    attention = {"native_program": partial(attends, rows), "torch": partial(torch_attends, rows)}
    cost = Cost(rows * one.bytes, rows * one.flops)
    yield Point(f"attend, {rows} rows after {PAST}", cost, attention)
    there = {"native_program": partial(looks_up, rows), "torch": partial(torch_attends, rows, stores=False)}
    yield Point(f"look_up, {rows} rows after {PAST}", cost, there)
    stored = {"native_program": partial(keeps, rows), "torch": partial(torch_attends, rows, reads=False)}
    yield Point(f"keep, {rows} rows", Cost(4 * rows * 4 * KV_HEADS * SIZE, 0), stored)


def transformers_step() -> Round:
    """The same shape in bf16, over keys and values that are there."""
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**{key: value for key, value in EIGHT_LAYERS.items() if key != "model_type"})
    model, cache = LlamaForCausalLM(config).to(DEVICE, torch.bfloat16).eval(), DynamicCache()
    ids = torch.full((1, PAST), 5, device=DEVICE)
    with torch.inference_mode():
        model(input_ids=ids, past_key_values=cache, logits_to_keep=1)

    def run() -> None:
        model(input_ids=ids[:, :1], past_key_values=cache)
        cache.crop(-1)  # the new one goes

    run()
    return run, 1


def step_point() -> Point:
    read = int8_bytes(SHAPE)
    rounds: dict[str, Prepare] = {
        "native_program": partial(step_round, "int8", 1, SHAPE, programmed=True),
        "transformers bf16": transformers_step,
        "ours, module by module": partial(step_round, "int8", 1, SHAPE, programmed=False),
    }
    return Point(f"step of 8 layers in int8 after {PAST}", Cost(read, 2 * read), rounds)


def points(quick: bool) -> Iterator[Point]:
    """Instructions of a lone row and of eight, and a step."""
    for rows in (1,) if quick else (1, 8):
        yield from instruction_points(rows)
    yield step_point()


@pytest.mark.parametrize("point", points(quick=False), ids=lambda point: point.name)
def test_native_program(benchmark: Any, point: Point) -> None:
    timed(benchmark, point)
