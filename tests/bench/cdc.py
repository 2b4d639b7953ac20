"""Change capture against native logical replication: the same WAL, a slot each, one run.

Every contestant gets the same workload from the same source and writes to a database of its own
on the same destination server. Slots are made before the workload, the catch-up is timed from a
standing start, so that each reads the whole of it at its own pace. `floor` only reads the
walsender's output and drops it: nobody can be faster.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import psycopg

from services.shared.model import Lsn
from services.shared.pg.replication import ReplicationConnection
from tests.lab.installs import newest, oldest
from tests.lab.nats import NatsServer
from tests.lab.postgres import PostgresServer

TABLES = "accounts tellers branches history wide indexed"
DDL = """
CREATE TABLE accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
CREATE TABLE tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
CREATE TABLE branches (bid int PRIMARY KEY, bbalance int, filler char(88));
CREATE TABLE history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
CREATE TABLE wide (id int PRIMARY KEY, n int, body text, doc jsonb);
CREATE TABLE indexed (id int PRIMARY KEY, a int, b text, c timestamptz, d numeric, e uuid);
CREATE INDEX ON indexed (a); CREATE INDEX ON indexed (b); CREATE INDEX ON indexed (c);
CREATE INDEX ON indexed (d); CREATE INDEX ON indexed (e);
ALTER TABLE wide ALTER body SET STORAGE EXTERNAL;
INSERT INTO accounts SELECT i, 1, 0, '' FROM generate_series(1, 100000) i;
INSERT INTO tellers SELECT i, 1, 0, '' FROM generate_series(1, 10) i;
INSERT INTO branches VALUES (1, 0, '');
INSERT INTO wide SELECT i, 0, repeat(md5(i::text), 100), jsonb_build_object('k', i)
  FROM generate_series(1, 5000) i;
"""
TPCB = """
\\set aid random(1, 100000)
\\set tid random(1, 10)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE accounts SET abalance = abalance + :delta WHERE aid = :aid;
UPDATE tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE branches SET bbalance = bbalance + :delta WHERE bid = 1;
INSERT INTO history VALUES (:tid, 1, :aid, :delta, CURRENT_TIMESTAMP, '');
END;
"""


@dataclass(frozen=True)
class Workload:
    """transactions: of TPC-B by pgbench; statements: one transaction each, instead."""

    name: str
    transactions: int = 0
    statements: tuple[str, ...] = ()


def workloads(scale: float) -> list[Workload]:
    rows = int(1_000_000 * scale)
    return [
        Workload("TPC-B transactions", transactions=int(50_000 * scale)),
        Workload(
            "bulk insert",
            statements=(
                f"INSERT INTO history SELECT 1, 1, i, i, now(), '' FROM generate_series(1, {rows}) i",
            ),
        ),
        Workload(
            "bulk update",
            statements=("UPDATE accounts SET abalance = abalance + 1",) * max(1, int(5 * scale)),
        ),
        Workload(
            "wide rows, TOAST",
            statements=(
                f"INSERT INTO wide SELECT i + 100000, 0, repeat(md5(i::text), 100), "
                f"jsonb_build_object('k', i) FROM generate_series(1, {int(20_000 * scale)}) i",
                "UPDATE wide SET n = n + 1",
            ),
        ),
        Workload(
            "five secondary indexes",
            statements=(
                f"INSERT INTO indexed SELECT i, i % 1000, md5(i::text), now(), i / 7.0, gen_random_uuid() "
                f"FROM generate_series(1, {int(100_000 * scale)}) i",
            ),
        ),
    ]


@dataclass
class Result:
    seconds: float
    cpu: str
    rss_mb: float


class Arena:
    """Source and destination servers, and a NATS server, for all contestants."""

    def __init__(self, source: PostgresServer, destination: PostgresServer, nats: NatsServer) -> None:
        self.source, self.destination, self.nats = source, destination, nats

    def sql(self, uri: str, *statements: str) -> None:
        with psycopg.connect(uri, autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement.encode())

    def value(self, uri: str, query: str) -> str:
        with psycopg.connect(uri, autocommit=True) as conn:
            row = conn.execute(query.encode()).fetchone()
        assert row is not None
        return str(row[0])

    def load(self, uri: str, workload: Workload) -> None:
        self.sql(uri, *workload.statements)
        if workload.transactions:
            command = [str(self.source.bin_dir / "pgbench"), "-n", "-c", "4", "-j", "1"]
            command += ["-t", str(workload.transactions // 4), "-f", "-", uri]
            script = self.source.root / "tpcb.sql"
            script.write_text(TPCB)
            command[command.index("-")] = str(script)
            subprocess.run(command, check=True, capture_output=True)

    def counts(self, uri: str) -> str:
        sums = " || ',' || ".join(
            f"(SELECT count(*)::text || ':' || coalesce(sum(hashtextextended(t::text, 0))::text, '')"
            f" FROM {name} t)"
            for name in TABLES.split()
        )
        return self.value(uri, f"SELECT {sums}")


@contextmanager
def arena() -> Iterator[Arena]:
    settings = {"max_wal_size": "8GB", "shared_buffers": "512MB", "max_replication_slots": "20"}
    with (
        PostgresServer(oldest(), settings=settings) as source,
        PostgresServer(newest(), settings=settings) as destination,
        NatsServer() as nats,
    ):
        yield Arena(source, destination, nats)


def _wait(reached: object, timeout: float = 600) -> None:
    deadline = time.monotonic() + timeout
    while not reached():  # type: ignore[operator]
        if time.monotonic() > deadline:
            raise TimeoutError("a contestant did not catch up")
        time.sleep(0.02)


def native(arena: Arena, destination: str, target: Lsn) -> Result:
    """ALTER SUBSCRIPTION ... ENABLE until the slot has confirmed everything."""
    arena.sql(destination, "ALTER SUBSCRIPTION native ENABLE")
    began = time.monotonic()
    with psycopg.connect(destination, autocommit=True) as conn:
        query = b"SELECT coalesce(max(remote_lsn), '0/0')::text FROM pg_replication_origin_status"

        def reached() -> bool:
            row = conn.execute(query).fetchone()
            return row is not None and Lsn.parse(row[0]) >= target

        _wait(reached)
        seconds = time.monotonic() - began
    arena.sql(destination, "ALTER SUBSCRIPTION native DISABLE")
    return Result(seconds, "in the server", 0.0)


def pgmig(arena: Arena, uris: tuple[str, str], migration: str, start: Lsn, target: Lsn) -> Result:
    """Decoder and applier processes, from their start until the origin has everything."""
    source, destination = uris
    given = {"id": migration, "nats": arena.nats.url, "start": str(start), "tables": TABLES}
    workers = [
        psutil.Popen([sys.executable, "-m", "tests.bench.worker", role, json.dumps({**given, "uri": uri})])
        for role, uri in (("decoder", source), ("applier", destination))
    ]
    try:
        with psycopg.connect(destination, autocommit=True) as conn:
            query = b"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgmig destination'"

            def attached() -> bool:
                row = conn.execute(query).fetchone()
                return row is not None and row[0] > 0

            _wait(attached, 60)  # Python's imports are not what is measured
            began = time.monotonic()
            progress = (
                "SELECT coalesce(max(remote_lsn), '0/0')::text FROM pg_replication_origin_status"
                f" WHERE external_id = 'pgmig_{migration}'"
            )

            def reached() -> bool:
                row = conn.execute(progress.encode()).fetchone()
                return row is not None and Lsn.parse(row[0]) >= target

            _wait(reached)
            seconds = time.monotonic() - began
        cpu = " ".join(f"{sum(w.cpu_times()[:2]):.1f}" for w in workers)
        rss = max(w.memory_info().rss for w in workers) / 1e6
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
    return Result(seconds, cpu, rss)


async def floor(source: str, slot: str, start: Lsn, target: Lsn) -> float:
    """Seconds to read everything from the walsender and drop it."""
    replication = await ReplicationConnection.open(source)
    try:
        began = time.monotonic()
        await replication.start(slot, start, "floor")
        end = 0
        while end < target.value:
            messages, size = replication.drain()
            for message in messages:
                if isinstance(message, bytes) and message[0] == 0x43:
                    end = int.from_bytes(message[10:18], "big")
            if size < 1 << 19:
                await asyncio.sleep(0.001)
        return time.monotonic() - began
    finally:
        await replication.close()


def contest(arena: Arena, number: int, workload: Workload) -> None:
    """One workload, every contestant, one line each."""
    source = arena.source.create_database(f"s{number}")
    arena.sql(source, DDL)
    destinations = {}
    for name in ("native", "pgmig"):
        destinations[name] = arena.destination.create_database(f"{name}{number}")
        arena.sql(destinations[name], DDL, "ANALYZE")
    publication = ", ".join(TABLES.split())
    for name in ("native", "floor", f"pgmig_m{number}"):
        arena.sql(source, f"CREATE PUBLICATION {name} FOR TABLE {publication}")
    for slot in (f"native{number}", f"floor{number}", f"pgmig_m{number}"):
        arena.sql(source, f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    arena.sql(
        destinations["native"],
        f"CREATE SUBSCRIPTION native CONNECTION '{source}' PUBLICATION native "
        f"WITH (enabled = false, copy_data = false, create_slot = false, slot_name = 'native{number}')",
    )
    start = Lsn.parse(arena.value(source, "SELECT pg_current_wal_lsn()::text"))
    arena.load(source, workload)
    arena.sql(source, "INSERT INTO history VALUES (0, 0, 0, 0, now(), 'end')", "CHECKPOINT")
    arena.sql(destinations["native"], "CHECKPOINT")
    target = asyncio.run(_last_commit(arena, source, number))
    seconds = asyncio.run(floor(source, f"floor{number}", start, target))
    theirs = native(arena, destinations["native"], target)
    arena.sql(destinations["native"], "CHECKPOINT")
    ours = pgmig(arena, (source, destinations["pgmig"]), f"m{number}", start, target)
    expected = arena.counts(source)
    same = all(arena.counts(uri) == expected for uri in destinations.values())
    print(
        f"{workload.name:24} native {theirs.seconds:6.2f} s   pgmig {ours.seconds:6.2f} s   "
        f"ratio {theirs.seconds / ours.seconds:5.2f}x   walsender alone {seconds:5.2f} s   "
        f"CPU s (decoder applier) {ours.cpu}   RSS {ours.rss_mb:.0f} MB   {'equal' if same else 'DIFFERENT'}",
        flush=True,
    )
    arena.sql(
        destinations["native"], "ALTER SUBSCRIPTION native SET (slot_name = NONE)", "DROP SUBSCRIPTION native"
    )
    arena.sql(
        source,
        *(
            f"SELECT pg_drop_replication_slot('{slot}')"
            for slot in (f"native{number}", f"floor{number}", f"pgmig_m{number}")
        ),
    )
    if not same:
        raise SystemExit("rows differ")


async def _last_commit(arena: Arena, source: str, number: int) -> Lsn:
    """End LSN of the last published transaction, from a peek at the floor's slot."""
    query = (
        "SELECT max(lsn)::text FROM pg_logical_slot_peek_binary_changes("
        f"'floor{number}', NULL, NULL, 'proto_version', '1', 'publication_names', 'floor')"
    )
    return Lsn.parse(await asyncio.to_thread(arena.value, source, query))


def main(scale: float, only: str) -> None:
    with arena() as found:
        for number, workload in enumerate(workloads(scale)):
            if only in workload.name:
                contest(found, number, workload)
