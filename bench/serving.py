"""Latency through gRPC: time to first token, time between tokens, and what the server adds to the engine."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..server.client import Client

Progress = Callable[[str, int, int], None]
CONCURRENCIES = (1, 8)


@dataclass(frozen=True, slots=True)
class Sample:
    """One streamed request, in seconds. added: what it took beyond the engine's own queue, prefill and decode."""

    first_token: float
    between: tuple[float, ...]
    total: float
    added: float
    num_tokens: int


def measure_serving(
    address: str, model: str, prompts: Sequence[Sequence[int]], num_new: int, num_requests: int, progress: Progress
) -> dict[str, dict[str, float]]:
    """{concurrency: percentiles in milliseconds, and tokens per second over all streams}."""
    figures = {}
    for concurrency in CONCURRENCIES:
        _stream_all(address, model, prompts, num_new, concurrency, concurrency)  # warm-up
        begin = time.perf_counter()
        samples = _stream_all(address, model, prompts, num_new, concurrency, num_requests)
        figures[str(concurrency)] = _figures(samples, time.perf_counter() - begin)
        progress(f"streams of {model} through gRPC", CONCURRENCIES.index(concurrency) + 1, len(CONCURRENCIES))
    return figures


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _stream_all(
    address: str, model: str, prompts: Sequence[Sequence[int]], num_new: int, concurrency: int, num_requests: int
) -> list[Sample]:
    """num_requests in all, `concurrency` at a time, each caller with a connection of its own."""
    samples: list[Sample] = []
    failures: list[BaseException] = []
    left = list(range(num_requests))
    lock = threading.Lock()

    def caller() -> None:
        try:
            with Client(address) as client:
                while True:
                    with lock:
                        if not left:
                            return
                        turn = left.pop()
                    sample = _stream(client, model, prompts[turn % len(prompts)], num_new)
                    with lock:
                        samples.append(sample)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=caller) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return samples


def _stream(client: Client, model: str, prompt: Sequence[int], num_new: int) -> Sample:
    begin = time.perf_counter()
    arrivals, tokens, engine = [], 0, 0.0
    for chunk in client.stream(prompt, model=model, max_new_tokens=num_new, temperature=0.0, ignore_eos=True):
        if chunk.token_ids:
            arrivals.append(time.perf_counter())
            tokens += len(chunk.token_ids)
        if chunk.timing:
            timing = chunk.timing
            engine = timing.queue_seconds + timing.prefill_seconds + timing.decode_seconds
    total = time.perf_counter() - begin
    between = tuple(after - before for before, after in zip(arrivals, arrivals[1:], strict=False))
    return Sample(arrivals[0] - begin, between, total, total - engine, tokens)


def _figures(samples: Sequence[Sample], seconds: float) -> dict[str, float]:
    between = [gap for sample in samples for gap in sample.between]
    figures: dict[str, float] = {"requests": len(samples)}
    for name, values in (
        ("ttft_ms", [sample.first_token for sample in samples]),
        ("itl_ms", between),
        ("added_ms", [sample.added for sample in samples]),
    ):
        figures[f"{name}_p50"] = round(percentile(values, 0.50) * 1e3, 3)
        figures[f"{name}_p95"] = round(percentile(values, 0.95) * 1e3, 3)
    figures["tokens_per_second"] = round(sum(sample.num_tokens for sample in samples) / seconds, 1)
    return figures
