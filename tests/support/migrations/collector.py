"""An OpenTelemetry collector that keeps the spans it receives."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)


@dataclass(frozen=True, slots=True)
class Span:
    """service: its service.name. parent: a span id, b"" for none. Times are Unix nanoseconds."""

    service: str
    name: str
    trace: bytes
    id: bytes
    parent: bytes
    began: int
    ended: int


class Collector(TraceServiceServicer):
    """A context manager; listens on a free loopback port."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._news = threading.Condition()
        self._server = grpc.server(ThreadPoolExecutor(2))
        add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(0).wait()

    def Export(  # noqa: N802 - gRPC's name
        self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> ExportTraceServiceResponse:
        found = []
        for resource in request.resource_spans:
            names = [a.value.string_value for a in resource.resource.attributes if a.key == "service.name"]
            found += [
                Span(
                    "".join(names),
                    span.name,
                    span.trace_id,
                    span.span_id,
                    span.parent_span_id,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                )
                for scope in resource.scope_spans
                for span in scope.spans
            ]
        with self._news:
            self._spans += found
            self._news.notify_all()
        return ExportTraceServiceResponse()

    def wait_for_trace(self, good: Callable[[list[Span]], bool], timeout: float) -> list[Span]:
        """The spans of a trace for which `good` is true. Raises TimeoutError with the names of the received
        ones."""
        with self._news:
            if self._news.wait_for(lambda: self._good(good) is not None, timeout):
                found = self._good(good)
                assert found is not None
                return found
            names = sorted({f"{span.service} {span.name}" for span in self._spans})
        raise TimeoutError(f"no such trace among {len(self._spans)} spans: {names}")

    def _good(self, good: Callable[[list[Span]], bool]) -> list[Span] | None:
        traces: dict[bytes, list[Span]] = {}
        for span in self._spans:
            traces.setdefault(span.trace, []).append(span)
        return next((spans for spans in traces.values() if good(spans)), None)
