"""A decoder or an applier as a process of its own, without a coordinator: `worker ROLE JSON`."""

from __future__ import annotations

import asyncio
import json
import sys

from services.applier.loop import Applying
from services.decoder.loop import Decoding
from services.shared.bus.connection import bus
from services.shared.model import ApplierWork, Assignment, DecoderWork, Lsn, TableId, WorkerReport
from services.shared.runtime.lifecycle import calm_collector


async def run(role: str, given: dict[str, str]) -> None:
    start = Lsn.parse(given["start"])

    def report(_report: WorkerReport) -> None:
        """Nobody listens: the parent looks at the destination."""

    async with bus(given["nats"], role) as client:
        if role == "decoder":
            tables = tuple(TableId("public", name) for name in given["tables"].split())
            work = DecoderWork(
                given["uri"], follow=True, may_create=not start, tables=tables, start_lsn=start
            )
            await Decoding(Assignment("d", given["id"], work), client, report, 4 << 30).run()
        else:
            applier = ApplierWork(given["uri"], start)
            await Applying(Assignment("a", given["id"], applier), client, report).run()


if __name__ == "__main__":
    calm_collector()
    asyncio.run(run(sys.argv[1], json.loads(sys.argv[2])))
