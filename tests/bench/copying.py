"""The copy of one large table: seconds, and CPU of the copier, each way that it can go.

    python -m tests.bench.copying [MILLIONS_OF_ROWS]

Not part of `make bench`, which is about whole migrations. The copier's loops run in this process, the
servers in theirs, so its CPU time is this process's.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import psycopg

from services.shared.model import CopyPart, MigrationId, Split
from services.shared.pg.copy import part as copying
from services.shared.pg.copy.part import PartCopier
from services.shared.pg.copy.relay import may_relay
from tests.support.copying.databases import execute, exported_snapshot, keep_books, part, scalar
from tests.support.servers.installs import newest, oldest
from tests.support.servers.postgres import PostgresServer

TABLE = "CREATE TABLE accounts (aid int, bid int, abalance int, filler char(84)) WITH (fillfactor = 100)"
COLUMNS = ("aid", "bid", "abalance", "filler")


async def copied(source: str, destination: str, parts: list[CopyPart], workers: int) -> int:
    """Bytes of COPY data; each worker takes the next part."""
    left, total = iter(parts), 0

    async def work() -> None:
        nonlocal total
        copier = PartCopier(source, destination, MigrationId("bench").forward)
        for one in left:
            outcome = await copier.copy(one, lambda _rows, _size: None)
            assert outcome is not None
            total += outcome.bytes
        await copier.close()

    await asyncio.gather(*(work() for _ in range(workers)))
    return total


@contextmanager
def through_libpq(yes: bool) -> Iterator[None]:
    async def never(_conn: psycopg.AsyncConnection) -> bool:
        return False

    with patch.object(copying, "may_relay", never if yes else may_relay):
        yield


def main(millions: float) -> None:
    settings = {"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "1h"}
    rows = int(millions * 1_000_000)
    with (
        PostgresServer(oldest(), settings=settings) as source,
        PostgresServer(newest(), settings=settings) as dest,
    ):
        there, here = source.create_database("bench"), dest.create_database("bench")
        execute(
            there,
            TABLE,
            f"INSERT INTO accounts SELECT n, 1, 0, '' FROM generate_series(1, {rows}) AS n",
            "VACUUM (FREEZE, ANALYZE) accounts",
        )
        asyncio.run(keep_books(here))
        pages = int(str(scalar(there, "SELECT pg_relation_size('accounts') / 8192")))
        print(f"{rows} rows, {pages * 8192 >> 20} MB of heap\n")
        print(f"{'':34}{'seconds':>9}{'CPU':>7}{'MB/s':>7}")
        for binary in (True, False):
            for parts, workers in ((1, 1), (4, 1), (4, 2), (4, 4)):
                for libpq in (True, False) if parts == 1 else (False,):
                    execute(
                        here, "DROP TABLE IF EXISTS accounts", TABLE, "TRUNCATE pgmig.copy_part", "CHECKPOINT"
                    )
                    with exported_snapshot(there) as snapshot, through_libpq(libpq):
                        whole = part("accounts", *COLUMNS, snapshot=snapshot, binary=binary)
                        cut = [
                            replace(whole, part_id=str(number), rows=one)
                            for number, one in enumerate(Split(parts, pages=pages).ranges())
                        ]
                        began, cpu = time.perf_counter(), time.process_time()
                        size = asyncio.run(copied(there, here, cut, workers))
                        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
                    assert scalar(here, "SELECT count(*) FROM accounts") == rows
                    what = f"{'binary' if binary else 'text'}, {parts} parts, {workers} workers"
                    what += ", libpq" if libpq else ""
                    print(f"{what:34}{seconds:9.2f}{cpu:7.2f}{size / seconds / 1e6:7.0f}", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0)
