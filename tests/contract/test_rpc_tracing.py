"""One trace from the client's span into the coordinator, carried in gRPC metadata."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.shared.model import ErrorKind, PgmigError, SwitchoverOptions
from tests.fakes.control_service import OPERATION, SUCCEEDED, VIEW, FakeControl, serving


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Spans made during the test. (OpenTelemetry lets a process set its provider only once.)"""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


def kinds(exporter: InMemorySpanExporter) -> dict[trace.SpanKind, ReadableSpan]:
    return {span.kind: span for span in exporter.get_finished_spans()}


async def test_a_call_is_one_trace_on_both_sides(spans: InMemorySpanExporter) -> None:
    async with serving(FakeControl()) as (_server, client):
        with trace.get_tracer("test").start_as_current_span("operator") as span:
            assert await client.get("m1") == VIEW
    operator = span.get_span_context()
    found = kinds(spans)
    client_side, server_side = found[trace.SpanKind.CLIENT].context, found[trace.SpanKind.SERVER].context
    parent = found[trace.SpanKind.SERVER].parent
    assert client_side is not None
    assert server_side is not None
    assert parent is not None
    assert parent.span_id == client_side.span_id
    assert server_side.trace_id == client_side.trace_id == operator.trace_id


async def test_errors_arrive_whole_through_the_interceptors(spans: InMemorySpanExporter) -> None:
    control = FakeControl(error=PgmigError(ErrorKind.WRONG_PHASE, "m1 is paused", "resume it"))
    async with serving(control) as (_server, client):
        with pytest.raises(PgmigError) as caught:
            await client.pause("m1")
        assert (caught.value.kind, caught.value.hint) == (ErrorKind.WRONG_PHASE, "resume it")
        with pytest.raises(PgmigError) as caught:
            await client.switchover("m1", "r", SwitchoverOptions())
        assert (caught.value.kind, caught.value.hint) == (ErrorKind.WRONG_PHASE, "resume it")
    attributes = kinds(spans)[trace.SpanKind.SERVER].attributes or {}
    assert attributes["rpc.grpc.status_code"] == grpc.StatusCode.FAILED_PRECONDITION.value[0]


async def test_streams_work_through_the_interceptors_and_a_watch_has_no_span(
    spans: InMemorySpanExporter,
) -> None:
    control = FakeControl()
    control.more_steps.set()
    control.views.put_nowait(None)
    async with serving(control) as (_server, client):
        assert [view async for view in client.watch("m1")] == [VIEW]
        assert [one async for one in client.watch_operation("8f3a")] == [OPERATION, SUCCEEDED]
        assert spans.get_finished_spans() == ()
        assert await client.switchover("m1", "r", SwitchoverOptions()) == OPERATION
    assert {span.kind for span in spans.get_finished_spans()} == {
        trace.SpanKind.SERVER,
        trace.SpanKind.CLIENT,
    }
