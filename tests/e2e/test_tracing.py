"""One trace follows a batch of changes from the source's WAL to the destination's disk."""

from __future__ import annotations

from pathlib import Path

from services.shared.model import Phase
from services.shared.runtime.telemetry import SpanName
from tests.support.data.workload import Writer
from tests.support.migrations.collector import Collector, Span
from tests.support.migrations.live import Live
from tests.support.migrations.stack import Stack
from tests.support.servers.nats import NatsServer

WAY = (SpanName.DECODE_BATCH, SpanName.APPLY_BATCH, SpanName.FLUSH)
TRACE_S = 60.0


def complete(spans: list[Span]) -> bool:
    return {name.value for name in WAY} <= {span.name for span in spans}


async def test_a_batch_is_one_trace(
    shop: str, dest_db: str, nats_server: NatsServer, tmp_path: Path, writer: Writer
) -> None:
    with Collector() as collector:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200"}
        with Stack(nats_server, tmp_path, settings=settings) as stack:
            async with stack.session() as session:
                live = Live(session, "traced", shop, dest_db)
                await live.start()
                await live.until_phase(Phase.STREAMING)
                writer.wait_for_commits(10)
                found = collector.wait_for_trace(complete, TRACE_S)
    decode, apply, flush = (next(s for s in found if s.name == name) for name in WAY)
    assert (decode.service, apply.service, flush.service) == (
        "pgmig-decoder",
        "pgmig-applier",
        "pgmig-applier",
    )
    assert decode.parent == b""
    assert apply.parent == decode.id
    assert flush.parent == decode.id
    assert decode.began <= apply.began <= flush.ended
