"""Spans of requests for OpenTelemetry, where somebody asked for them: when a request has ended, one with its receipt.

Needs the extra `otel`, of which nothing is imported before. Never the prompt, never the text.
"""

import asyncio
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING

from ..models.errors import SetupError
from ..models.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

PACKAGES = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc")
ADDRESSES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")  # as every program has them
Figures = Mapping[str, str | int | float]  # by the names of attributes
_OPERATIONS = {"generate": "generate_content", "score": "score", "embed": "embeddings"}  # as others name them
_PARENTS = ("traceparent", "tracestate")
_NAMES = "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"  # where somebody else may say what this program is called


class Tracing:
    """What becomes of a request's figures as a span: the child of the one that its caller named, else a root."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import context
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider, self._tracer = provider, provider.get_tracer("moesaic", VERSION)
        self._context, self._parents, self._kind = context, TraceContextTextMapPropagator(), SpanKind.SERVER
        self._error = partial(Status, StatusCode.ERROR)

    @contextmanager
    def continued(self, headers: Iterable[tuple[str, str | bytes]]) -> Iterator[None]:
        """Meanwhile spans are children of what these headers, or this metadata, name."""
        named = {key: value for key, value in headers if key in _PARENTS and isinstance(value, str)}
        if not named:
            yield
            return
        token = self._context.attach(self._parents.extract(named))
        try:
            yield
        finally:
            self._context.detach(token)

    def ended(
        self, operation: str, names: Mapping[str, str], outcome: Mapping[str, str], figures: Figures, seconds: float
    ) -> None:
        """Notes a request that took so long. operation: one of _OPERATIONS. figures: its receipt, where it has one."""
        end = time.time_ns()
        told = {f"moesaic.{name}": value for name, value in {**names, **outcome}.items()}
        span = self._tracer.start_span(
            f"{operation} {names['model']}".strip(),
            kind=self._kind,
            attributes={"gen_ai.operation.name": _OPERATIONS[operation], **told, **figures},
            start_time=end - round(1e9 * seconds),
        )
        if outcome["status"] not in ("OK", "CANCELLED"):
            span.set_attribute("error.type", outcome.get("reason", outcome["status"]))
            span.set_status(self._error(outcome["status"]))
        span.end(end)

    async def end(self, seconds: float) -> None:
        """Sends what is left, for so long at most."""
        sending = Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        await asyncio.to_thread(sending.join, seconds)


def continued(tracing: Tracing | None, headers: Iterable[tuple[str, str | bytes]]) -> AbstractContextManager[None]:
    """What `Tracing.continued` does, and nothing where nobody wants spans."""
    return nullcontext() if tracing is None else tracing.continued(headers)


def traces_address(asked: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """Where spans go; empty where nobody wants them. asked: by the setting, which comes first."""
    if asked:
        return asked
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true", environment.get("OTEL_TRACES_EXPORTER") == "none"
    return "" if any(off) else next((found for name in ADDRESSES if (found := environment.get(name))), "")


def open_tracing(asked: str | None) -> Tracing | None:
    """Spans to a collector, by OTLP over gRPC, or None where nobody wants them. Raises SetupError without packages."""
    address = traces_address(asked)
    if not address:
        return None
    if not _is_there():
        text = f"spans of requests are to go to {address}, and the packages for that are not installed"
        raise SetupError(f"{text}: pip install 'moesaic[otel]', or leave out --otlp-traces-endpoint and OTEL_*")
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    own = {} if any(name in os.environ for name in _NAMES) else {"service.name": "moesaic"}
    provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=asked)))
    return Tracing(provider)


def _is_there() -> bool:
    try:
        return all(find_spec(name) for name in PACKAGES)
    except ModuleNotFoundError:  # of a package around them
        return False
