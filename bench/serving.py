"""Latency through gRPC: time to first token, time between tokens, and what the server adds to the engine."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from ..models.progress import Progress
from ..proto import generation_pb2 as pb
from ..server.client_request import build_request
from ..server.handlers import GENERATION, stub
from .energy import Stretch

CONCURRENCIES = (1, 8)


@dataclass(frozen=True, slots=True)
class Sample:
    """One streamed request, in seconds. The last two are beyond the engine's own queue, prefill and decode: what the
    front end took, and what gRPC on both sides and this client took."""

    first_token: float
    between: tuple[float, ...]
    total: float
    front_end: float
    wire: float
    num_tokens: int


def measure_serving(
    address: str, model: str, prompts: Sequence[Sequence[int]], num_new: int, num_requests: int, progress: Progress
) -> dict[str, dict[str, Any]]:
    """{concurrency: percentiles in milliseconds, tokens per second over all streams, and joules of the machine}."""
    figures = {}
    for concurrency in CONCURRENCIES:
        _stream_all(address, model, prompts, num_new, concurrency, concurrency)  # warm-up
        stretch = Stretch()
        samples = _stream_all(address, model, prompts, num_new, concurrency, num_requests)
        seconds, spent = stretch.seconds, stretch.figures(sum(sample.num_tokens for sample in samples))
        figures[str(concurrency)] = _figures(samples, seconds) | spent
        progress(f"streams of {model} through gRPC", CONCURRENCIES.index(concurrency) + 1, len(CONCURRENCIES))
    return figures


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _stream_all(
    address: str, model: str, prompts: Sequence[Sequence[int]], num_new: int, concurrency: int, num_requests: int
) -> list[Sample]:
    """Streams num_requests in all, `concurrency` at a time, on one connection and one event loop."""

    async def run() -> list[Sample]:
        samples: list[Sample] = []
        turns = iter(range(num_requests))
        async with grpc.aio.insecure_channel(address) as channel:
            call = stub(channel, GENERATION, "GenerateStream")

            async def caller() -> None:
                for turn in turns:
                    samples.append(await _stream(call, model, prompts[turn % len(prompts)], num_new))

            await asyncio.gather(*(caller() for _ in range(concurrency)))
        return samples

    return asyncio.run(run())


async def _stream(call: Callable[..., Any], model: str, prompt: Sequence[int], num_new: int) -> Sample:
    request = build_request(prompt, model=model, max_new_tokens=num_new, temperature=0.0, ignore_eos=True)
    begin = time.perf_counter()
    arrivals: list[float] = []
    tokens, timing = 0, pb.Timing()
    async for chunk in call(request):
        if chunk.token_ids:
            arrivals.append(time.perf_counter())
            tokens += len(chunk.token_ids)
        if chunk.HasField("timing"):
            timing = chunk.timing
    total = time.perf_counter() - begin
    between = tuple(after - before for before, after in zip(arrivals, arrivals[1:], strict=False))
    engine = timing.queue_seconds + timing.prefill_seconds + timing.decode_seconds
    front_end, wire = timing.total_seconds - engine, total - timing.total_seconds
    return Sample(arrivals[0] - begin, between, total, front_end, wire, tokens)


def _figures(samples: Sequence[Sample], seconds: float) -> dict[str, float]:
    between = [gap for sample in samples for gap in sample.between]
    figures: dict[str, float] = {"requests": len(samples)}
    for name, values in (
        ("ttft_ms", [sample.first_token for sample in samples]),
        ("itl_ms", between),
        ("front_end_ms", [sample.front_end for sample in samples]),
        ("wire_ms", [sample.wire for sample in samples]),
        ("added_ms", [sample.front_end + sample.wire for sample in samples]),
    ):
        figures[f"{name}_p50"] = round(percentile(values, 0.50) * 1e3, 3)
        figures[f"{name}_p95"] = round(percentile(values, 0.95) * 1e3, 3)
    figures["tokens_per_second"] = round(sum(sample.num_tokens for sample in samples) / seconds, 1)
    return figures
