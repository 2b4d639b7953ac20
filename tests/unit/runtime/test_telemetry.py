"""When telemetry is on, and how a trace crosses from one process to the next."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.shared.model import ErrorKind, PgmigError
from services.shared.runtime.telemetry import SpanName, extract, inject, setup_telemetry, span, wanted


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Spans made during the test. (OpenTelemetry lets a process set its provider only once.)"""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


@pytest.mark.parametrize(
    ("env", "on"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4317"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, False),
    ],
)
def test_the_environment_decides(env: dict[str, str], on: bool) -> None:
    assert wanted(env) is on


def test_an_unknown_exporter_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "telegraph")
    with pytest.raises(PgmigError, match="telegraph") as caught:
        setup_telemetry("decoder")
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT


def test_headers_carry_a_trace_to_the_next_process(spans: InMemorySpanExporter) -> None:
    headers: dict[str, str] = {}
    with span(SpanName.DECODE_BATCH, migration="m1"):
        inject(headers)
    with span(SpanName.APPLY_BATCH, extract(headers)):
        pass
    decode, apply = spans.get_finished_spans()
    assert decode.name == "pgmig.decode.batch"
    assert dict(decode.attributes or {}) == {"migration": "m1"}
    assert apply.parent is not None
    assert decode.context is not None
    assert apply.parent.span_id == decode.context.span_id


def test_without_headers_a_new_trace_begins(spans: InMemorySpanExporter) -> None:
    with span(SpanName.APPLY_BATCH, extract(None)):
        pass
    assert spans.get_finished_spans()[0].parent is None


def test_nothing_is_injected_when_telemetry_is_off() -> None:
    headers: dict[str, str] = {}
    with span(SpanName.DECODE_BATCH):
        inject(headers)
    assert headers == {}


def test_off_does_not_import_the_sdk_and_console_writes_spans_to_stderr() -> None:
    program = textwrap.dedent(
        """
        import os, sys
        from services.shared.runtime.telemetry import SpanName, setup_telemetry, span
        setup_telemetry("decoder")()
        assert "opentelemetry.sdk" not in sys.modules
        os.environ["OTEL_TRACES_EXPORTER"] = "console"
        shutdown = setup_telemetry("decoder")
        with span(SpanName.COPY_PART):
            pass
        shutdown()
        """
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == ""
    assert "pgmig.copy.part" in ran.stderr
    assert "pgmig-decoder" in ran.stderr
