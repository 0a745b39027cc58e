"""Spans of requests: what they say, whose children they are, and that nobody pays for them who did not ask."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from family_cases import Case
from http_caller import asked
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from patience import PATIENCE_SECONDS
from server_harness import Server

from moesaic.bench.local_server import local_server
from moesaic.models.errors import Overloaded, SetupError, Unsupported
from moesaic.proto import generation_pb2 as pb
from moesaic.server import tracing
from moesaic.server.client import Client
from moesaic.server.request_log import RequestRecord
from moesaic.server.tracing import Tracing, continued, open_tracing, traces_address

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
LAST = pb.GenerateChunk(
    finish=pb.Finish(reason=pb.Finish.LENGTH),
    usage=pb.Usage(
        prompt_tokens=9, completion_tokens=4, tier_asked="low", tier_used="balanced", cached_prompt_tokens=8,
        bytes_share=0.5, neurons_share=0.25,
    ),
    timing=pb.Timing(total_seconds=2.0),
)  # fmt: skip


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector of OpenTelemetry as far as programs see it: it takes spans."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        for resource in request.resource_spans:
            self.services |= {
                each.value.string_value for each in resource.resource.attributes if each.key == "service.name"
            }
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture(scope="module")
def collector() -> Iterator[tuple[Collector, str]]:
    server, collector = grpc.server(futures.ThreadPoolExecutor(2)), Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield collector, f"http://127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture
def kept() -> tuple[Tracing, InMemorySpanExporter]:
    provider, exporter = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Tracing(provider), exporter


def span_of(kept: tuple[Tracing, InMemorySpanExporter], error: Overloaded | None = None) -> ReadableSpan:
    """That of one request, which was answered or ended in this error."""
    with suppress(Overloaded), RequestRecord("mine", "m", False, None, kept[0]) as record:
        record.model = "m"
        record.note(LAST)
        if error is not None:
            raise error
    (span,) = kept[1].get_finished_spans()
    return span


def test_a_span_says_what_the_receipt_does(kept: tuple[Tracing, InMemorySpanExporter]) -> None:
    span = span_of(kept)
    told = dict(span.attributes or {})
    assert span.name == "generate m" and span.parent is None and span.status.is_unset
    assert (told["moesaic.tier_asked"], told["moesaic.tier_used"]) == ("low", "balanced")
    assert (told["moesaic.bytes_share"], told["moesaic.neurons_share"]) == (0.5, 0.25)
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (9, 4)
    assert (told["moesaic.cached_prompt_tokens"], told["moesaic.finish"]) == (8, "length")
    assert told["moesaic.request_id"] == "mine" and "moesaic.queue_seconds" not in told


def test_the_span_of_a_refusal_says_why(kept: tuple[Tracing, InMemorySpanExporter]) -> None:
    span = span_of(kept, Overloaded("there is no room", "QUEUE_FULL"))
    assert not span.status.is_ok and span.status.description == "RESOURCE_EXHAUSTED"
    assert dict(span.attributes or {})["error.type"] == "QUEUE_FULL"


@pytest.mark.parametrize("value", [PARENT, "", "00-0-0-01", "x" * 5000, b"\x00"])
def test_a_parent_is_taken_where_one_is_named(kept: tuple[Tracing, InMemorySpanExporter], value: Any) -> None:
    with continued(kept[0], [("traceparent", value), ("tracestate", "a=b"), ("user-agent", "x")]):
        span = span_of(kept)
    parent = span.parent
    assert (parent is not None and f"{parent.trace_id:032x}" == PARENT[3:35]) == (value == PARENT)


def test_requests_of_both_doors_come_to_a_collector(collector: tuple[Collector, str]) -> None:
    with Server(http=True, otlp_traces_endpoint=collector[1]) as server:
        assert f"spans of requests go to {collector[1]}" in server.printed
        with grpc.insecure_channel(server.address) as channel:
            call = channel.unary_unary("/moesaic.v1.Generation/Generate")
            request = pb.GenerateRequest(text="Once", stopping=pb.Stopping(max_new_tokens=3))
            call(request.SerializeToString(), metadata=[("traceparent", PARENT)], timeout=PATIENCE_SECONDS)
        assert asked(server.web, {"prompt": [7], "max_tokens": 4}, traceparent=PARENT)[0] == 200
        server.process.terminate()
        assert server.end() == 0
    spans, traces = collector[0].spans, {span.trace_id.hex() for span in collector[0].spans}
    assert [span.name for span in spans] == ["generate echo"] * 2 and traces == {PARENT[3:35]}
    made = [each.value.int_value for span in spans for each in span.attributes if each.key.endswith("output_tokens")]
    assert made == [3, 4] and collector[0].services == {"moesaic"}


def attributes_of(collector: Collector, name: str) -> dict[str, Any]:
    """Of the newest span of this name."""
    span = [span for span in collector.spans if span.name == name][-1]
    return {each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in span.attributes}


def test_a_score_is_told_with_its_receipt(collector: tuple[Collector, str]) -> None:
    with Server(otlp_traces_endpoint=collector[1]) as server, server.client() as client:
        client.score([5, 6], [[7], [8, 9]], tier="full", request_id="mine")
        with pytest.raises(Unsupported):
            client.embed([[5, 6]])
        server.process.terminate()
        assert server.end() == 0
    told, refused = (attributes_of(collector[0], name) for name in ("score echo", "embed echo"))
    assert (told["moesaic.texts"], told["gen_ai.usage.input_tokens"], told["moesaic.tier_used"]) == (2, 7, "full")
    assert (told["moesaic.request_id"], told["moesaic.status"]) == ("mine", "OK")
    assert refused["moesaic.status"] == "FAILED_PRECONDITION" and "gen_ai.usage.input_tokens" not in refused


def test_embeddings_are_told_with_what_was_read(collector: tuple[Collector, str], tmp_path: Path) -> None:
    Case("bert").build(tmp_path / "encoder")
    options = "--otlp-traces-endpoint", collector[1]
    with local_server({"encoder": tmp_path / "encoder"}, *options) as address, Client(address) as client:
        client.embed([[5, 6], [7]])
    told = attributes_of(collector[0], "embed encoder")
    assert (told["gen_ai.operation.name"], told["gen_ai.usage.input_tokens"]) == ("embeddings", 3)
    assert (told["moesaic.texts"], told["moesaic.status"]) == (2, "OK")


def test_a_collector_that_is_not_there_delays_neither_answers_nor_the_end() -> None:
    with Server(otlp_traces_endpoint="http://127.0.0.1:9", last_words_seconds=0.1) as server, server.client() as client:
        assert client.generate([5], max_new_tokens=2).token_ids == (5, 5)
        server.process.terminate()
        assert server.end() == 0


@pytest.mark.parametrize(
    ("environment", "address"),
    [
        ({}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4317"}, "http://a:4317"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, "http://b"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_SDK_DISABLED": "true"}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_TRACES_EXPORTER": "none"}, ""),
    ],
)
def test_the_environment_asks_for_spans_as_it_does_of_others(environment: dict[str, str], address: str) -> None:
    assert traces_address(None, environment) == address
    assert traces_address("http://c", environment) == "http://c"


def test_without_the_packages_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"pip install 'moesaic\[otel\]', or leave out --otlp-traces-endpoint"):
        open_tracing("http://a:4317")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert open_tracing(None) is None


def test_nothing_of_it_is_imported_where_nobody_asks() -> None:
    look = "import sys, moesaic.server.serve; print([name for name in sys.modules if 'opentelemetry' in name])"
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout == "[]\n"
