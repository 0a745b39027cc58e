"""What Prometheus is told: the meanings of vLLM's metrics under names of our own, fed by both doors.

Labels are names of served models, tiers and reasons; never an id, never a caller's text. Needs prometheus_client.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ..models.version import VERSION
from ..proto import generation_pb2 as pb
from .catalog import Catalog, ServedModel
from .engine_process import EngineState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
# vLLM begins at 0.01: all that a small model does is below it.
NEXT_TOKEN = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5,
    5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
WHOLE = (
    0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960,
    1920, 7680,
)  # fmt: skip
TOKENS = tuple(step * 10**power for power in range(6) for step in (1, 2, 5))
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


class Metrics:
    """One registry: figures of requests as they come and go, and of the models as they are when it is read."""

    def __init__(self, catalog: Catalog) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a gauge beside each figure
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.registry.register(_Models(catalog))
        self._first_token = self._histogram("time_to_first_token_seconds", "from arrival", FIRST_TOKEN)
        self._next_token = _NextTokens()
        self.registry.register(self._next_token)
        self._whole = self._histogram("e2e_request_latency_seconds", "of answered requests, arrival to end", WHOLE)
        self._queue = self._histogram("request_queue_time_seconds", "waiting for a slot", WHOLE)
        self._prefill = self._histogram("request_prefill_time_seconds", "reading the prompt", WHOLE)
        self._decode = self._histogram("request_decode_time_seconds", "making new tokens", WHOLE)
        self._prompt = self._histogram("request_prompt_tokens", "tokens of a prompt", TOKENS)
        self._made = self._histogram("request_generation_tokens", "tokens of an answer", TOKENS)
        self._share = self._histogram(
            "request_bytes_share", "part of the bytes that tiers govern that a token read", SHARES, "tier"
        )
        self._prompt_tokens = self._counter("prompt_tokens", "tokens of answered prompts")
        self._cached_tokens = self._counter("prefix_cache_hits", "of these, tokens that were not computed again")
        self._new_tokens = self._counter("generation_tokens", "new tokens of answered requests", "tier")
        self._success = self._counter("request_success", "answered requests", "finished_reason")
        self._tiers = self._counter("request_tiers", "answered requests", "tier_asked", "tier_used")
        self._rejected = self._counter("requests_rejected", "requests without an answer", "reason")
        self._responses = Counter(
            "moesaic_http_responses", "HTTP responses begun", ("route", "code"), registry=self.registry
        )

    def text(self) -> bytes:
        """All of it in the form that Prometheus reads."""
        return generate_latest(self.registry)

    def first_token(self, model: str, seconds: float) -> None:
        """Notes the first token of a request."""
        self._first_token.labels(model).observe(seconds)

    def next_tokens(self, model: str, count: int, seconds: float) -> None:
        """Notes further tokens, which came together after so many seconds."""
        self._next_token.observe(model, count, seconds)

    def ended(self, model: str, outcome: Mapping[str, str], last: pb.GenerateChunk | None, seconds: float) -> None:
        """Notes how a request ended. last: the chunk with usage and timing, where it was answered."""
        if last is None or outcome["status"] != "OK":
            self._rejected.labels(model, outcome.get("reason", outcome["status"])).inc()
            return
        usage, timing = last.usage, last.timing
        self._whole.labels(model).observe(seconds)
        self._queue.labels(model).observe(timing.queue_seconds)
        self._prefill.labels(model).observe(timing.prefill_seconds)
        self._decode.labels(model).observe(timing.decode_seconds)
        self._prompt.labels(model).observe(usage.prompt_tokens)
        self._made.labels(model).observe(usage.completion_tokens)
        self._prompt_tokens.labels(model).inc(usage.prompt_tokens)
        self._cached_tokens.labels(model).inc(usage.cached_prompt_tokens)
        self._new_tokens.labels(model, usage.tier_used).inc(usage.completion_tokens)
        self._success.labels(model, pb.Finish.Reason.Name(last.finish.reason).lower()).inc()
        self._tiers.labels(model, usage.tier_asked, usage.tier_used).inc()
        if usage.HasField("bytes_share"):
            self._share.labels(model, usage.tier_used).observe(usage.bytes_share)

    def responded(self, route: str, code: int) -> None:
        """Notes a response of the HTTP door. route: one that there is, or nothing."""
        self._responses.labels(route, str(code)).inc()

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"moesaic_{name}", help, ("model", *labels), buckets=buckets, registry=self.registry)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(f"moesaic_{name}", help, ("model", *labels), registry=self.registry)


class _NextTokens(Collector):
    """The times between tokens. Each token of each stream is noted, by the one loop that there is: no locks are needed,
    and the tokens of one message cost no more than one.
    """

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}  # of each model, by bucket
        self._sums: dict[str, float] = {}

    def observe(self, model: str, count: int, seconds: float) -> None:
        """Notes so many tokens that came together."""
        counts = self._counts.get(model)
        if counts is None:
            counts = self._counts[model] = [0] * (len(NEXT_TOKEN) + 1)
            self._sums[model] = 0.0
        counts[bisect_left(NEXT_TOKEN, seconds / count)] += count
        self._sums[model] += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """All of it."""
        name = "moesaic_inter_token_latency_seconds"
        help = "between tokens of an answer; means of up to 64 where one goes out at once"
        family = HistogramMetricFamily(name, help, labels=("model",))
        bounds = [*map(floatToGoString, NEXT_TOKEN), "+Inf"]
        for model, counts in self._counts.items():
            buckets = zip(bounds, accumulate(map(float, counts)), strict=True)
            family.add_metric((model,), [*buckets], self._sums[model])
        yield family


class _Models(Collector):
    """How the models are now."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def collect(self) -> Iterator[GaugeMetricFamily | InfoMetricFamily]:
        """A figure of each model under each name."""
        yield InfoMetricFamily("moesaic", "this server", {"version": VERSION})
        yield GaugeMetricFamily("moesaic_draining", "1 once it was asked to end", float(self._catalog.draining))
        figures = {name: _figures(model) for name, model in self._catalog.models.items()}
        for name, help in _GAUGES.items():
            family = GaugeMetricFamily(f"moesaic_{name}", help, labels=("model",))
            for model, known in figures.items():
                if name in known:
                    family.add_metric((model,), known[name])
            yield family


_GAUGES = {
    "model_serving": "1 while its engine takes requests",
    "num_requests_running": "requests that the engine computes",
    "num_requests_waiting": "requests that wait for a slot",
    "num_requests_in_flight": "requests that hold a place, of --max-requests",
    "num_slots": "answers that are made at a time",
    "kv_cache_usage_perc": "blocks of keys and values that requests hold, 0 to 1",
    "kv_blocks_leaked": "blocks that nobody holds and that are not free, while nothing runs; always 0",
    "engine_step_age_seconds": "since the newest step, while work waits; else 0",
}


def _figures(model: ServedModel) -> dict[str, float]:
    """What is known of a model, by the names of gauges."""
    serves = model.engine.state is EngineState.SERVING
    known = {"model_serving": float(serves), "num_requests_in_flight": float(model.admission.num_requests)}
    load = model.engine.load
    if load is None or not serves:
        return known
    held = load.num_blocks - load.free_blocks
    return known | {
        "num_requests_running": load.running,
        "num_requests_waiting": load.waiting,
        "num_slots": load.num_slots,
        "kv_cache_usage_perc": held / load.num_blocks if load.num_blocks else 0.0,
        "kv_blocks_leaked": float(held) if not (load.running or load.waiting) else 0.0,
        "engine_step_age_seconds": model.engine.step_age,
    }
