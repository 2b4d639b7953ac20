"""A decoder or an applier as a process of its own, without a coordinator: `worker ROLE JSON`.

It says `ready` on standard output when it could begin, and begins when a line comes in: so the
imports of both are over when the clock starts, and neither has a lead.
"""

from __future__ import annotations

import asyncio
import json
import sys

from nats.js.errors import NotFoundError

from services.applier.assignment import Applying
from services.decoder.assignment import Decoding
from services.shared.bus.connection import Client, bus
from services.shared.model import (
    ApplierWork,
    Assignment,
    DecoderWork,
    Lsn,
    MigrationId,
    TableId,
    WorkerReport,
)
from services.shared.runtime.lifecycle import calm_collector

MAX_STREAM_BYTES = 16 << 30


async def run(role: str, given: dict[str, str]) -> None:
    start, pipeline = Lsn.parse(given["start"]), MigrationId.parse(given["id"]).forward

    def report(_report: WorkerReport) -> None:
        """Nobody listens: the parent looks at the destination."""

    async with bus(given["nats"], role) as client:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        if role == "decoder":
            tables = tuple(TableId("public", name) for name in given["tables"].split())
            work = DecoderWork(
                given["uri"], follow=True, may_create=not start, tables=tables, start_lsn=start
            )
            await Decoding(Assignment("d", pipeline, work), client, report, MAX_STREAM_BYTES).run()
        else:
            await _stream_made(client, pipeline.change_stream)
            applier = ApplierWork(given["uri"], start, timeline=1)
            await Applying(Assignment("a", pipeline, applier), client, report).run()


async def _stream_made(client: Client, stream: str) -> None:
    """A coordinator staffs the applier when the decoder has its stream; here nobody tells."""
    while True:
        try:
            await client.jetstream().stream_info(stream)
        except NotFoundError:
            await asyncio.sleep(0.002)
        else:
            return


if __name__ == "__main__":
    calm_collector()
    asyncio.run(run(sys.argv[1], json.loads(sys.argv[2])))
