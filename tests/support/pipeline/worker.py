"""A decoder or an applier as a process of its own, without a coordinator, for tests that kill it.

    python -m tests.support.pipeline.worker JOB.json

The job: {"nats": url, "pipeline": text, "role": "decoder" or "applier", "work": {...}}, where work has
the fields of DecoderWork or ApplierWork, LSNs as text, tables as [schema, name]. Each SlotReady and
SentinelApplied is a line on stdout, `REPORT {...}`; logs go to stderr. The process ends only with an
error that no retry cures.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

from services.applier.assignment import Applying
from services.decoder.assignment import Decoding
from services.shared.bus.connection import bus
from services.shared.model import (
    ApplierWork,
    Assignment,
    DecoderWork,
    Lsn,
    PipelineId,
    SentinelApplied,
    SlotReady,
    TableId,
    WorkerReport,
)

STREAM_BYTES = 1 << 30


def report(found: WorkerReport) -> None:
    match found:
        case SlotReady(_, lsn, system_identifier, timeline):
            shown = {"slot": [str(lsn), system_identifier, timeline]}
        case SentinelApplied(_, token, _):
            shown = {"sentinel": [token]}
        case _:
            return
    print("REPORT", json.dumps(shown), flush=True)


async def run(job: dict[str, Any]) -> None:
    async with bus(job["nats"], job["role"]) as client:
        if job["role"] == "decoder":
            assignment = Assignment("d", PipelineId.parse(job["pipeline"]), decoder_work(**job["work"]))
            await Decoding(assignment, client, report, STREAM_BYTES).run()
        else:
            assignment = Assignment("a", PipelineId.parse(job["pipeline"]), applier_work(**job["work"]))
            await Applying(assignment, client, report).run()


def decoder_work(*, start_lsn: str, tables: list[tuple[str, str]], **fields: Any) -> DecoderWork:
    named = tuple(TableId(schema, name) for schema, name in tables)
    return DecoderWork(start_lsn=Lsn.parse(start_lsn), tables=named, **fields)


def applier_work(*, start_lsn: str, **fields: Any) -> ApplierWork:
    return ApplierWork(start_lsn=Lsn.parse(start_lsn), **fields)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(run(json.loads(Path(sys.argv[1]).read_text())))


if __name__ == "__main__":
    main()
