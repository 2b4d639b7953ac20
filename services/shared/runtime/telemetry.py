"""OpenTelemetry, set up in one place and off by default.

It is on if a standard variable requests it: OTEL_EXPORTER_OTLP_ENDPOINT,
OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, or OTEL_TRACES_EXPORTER (otlp, console); never with
OTEL_SDK_DISABLED=true or OTEL_TRACES_EXPORTER=none. The other OTEL_* variables set sampling, batching,
TLS and headers of the exporter. If it is off, the SDK is not imported and a span costs about a
microsecond. The API is imported when the first span is created.

Trace context is sent between processes in NATS headers (`inject`, `extract`) and in gRPC metadata
(by `rpc`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING

from services.shared.model import ErrorKind, PgmigError

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.context import Context

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class SpanName(StrEnum):
    """Every span that pgmig creates."""

    DECODE_BATCH = "pgmig.decode.batch"
    """From the first WAL message read for a batch until the change stream has stored it."""
    APPLY_BATCH = "pgmig.apply.batch"
    """One batch's transactions written to the destination, up to their commit."""
    FLUSH = "pgmig.apply.flush"
    """From a commit until the destination's WAL is known to be flushed up to it."""
    COPY_PART = "pgmig.copy.part"
    """One table part, COPY on the source to COPY on the destination."""


def _nothing() -> None:
    """Telemetry is off, so there is nothing to shut down."""


def wanted(env: Mapping[str, str]) -> bool:
    """Whether the environment requests traces."""
    exporter = env.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return False
    return bool(exporter) or any(env.get(name, "").strip() for name in _ENDPOINTS)


def setup_telemetry(service: str) -> Callable[[], None]:
    """Install the tracer provider of this process if the environment requests one.

    Returns a function that sends the remaining spans and stops the exporter; call it last. Raises
    PgmigError(INVALID_ARGUMENT) for an unknown exporter.
    """
    if not wanted(os.environ):
        return _nothing
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

    exporter: SpanExporter
    match os.environ.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower():
        case "otlp" | "":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
        case "console":
            exporter = ConsoleSpanExporter(out=sys.stderr)
        case other:
            raise PgmigError(
                ErrorKind.INVALID_ARGUMENT,
                f"OTEL_TRACES_EXPORTER={other} is not known",
                "use otlp, console or none",
            )
    name = os.environ.get("OTEL_SERVICE_NAME") or f"pgmig-{service}"
    provider = TracerProvider(resource=Resource.create({"service.name": name, "service.namespace": "pgmig"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return provider.shutdown


def tracer() -> trace.Tracer:
    from opentelemetry import trace

    return trace.get_tracer("pgmig")


def _recording() -> bool:
    from opentelemetry import trace

    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@contextmanager
def span(
    name: SpanName, parent: Context | None = None, **attributes: str | int | float | bool
) -> Iterator[trace.Span]:
    """A span around the block, as a child of `parent` or else of the current span."""
    if parent is None and not _recording():
        from opentelemetry import trace

        yield trace.INVALID_SPAN
        return
    with tracer().start_as_current_span(name.value, context=parent, attributes=attributes) as current:
        yield current


def inject(headers: dict[str, str]) -> None:
    """Add the current trace context to `headers`, if a span is active."""
    from opentelemetry import propagate, trace

    if trace.get_current_span().get_span_context().is_valid:
        propagate.inject(headers)


def extract(headers: Mapping[str, str] | None) -> Context:
    """The trace context in `headers`. If there is none, an empty one, which begins a new trace."""
    from opentelemetry import propagate

    return propagate.extract(headers or {})
