"""The work of the source before the contest: it writes the WAL that every contestant then replays."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from tests.bench.arena import run_sql
from tests.support.servers.postgres import PostgresServer

TABLES = ("accounts", "tellers", "branches", "history", "wide", "indexed")
BRANCHES = 10
CLIENTS = 8

_DDL = """
CREATE TABLE accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
CREATE TABLE tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
CREATE TABLE branches (bid int PRIMARY KEY, bbalance int, filler char(88));
CREATE TABLE history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
CREATE TABLE wide (id int PRIMARY KEY, n int, body text, doc jsonb);
CREATE TABLE indexed (id int PRIMARY KEY, a int, b text, c timestamptz, d numeric, e uuid);
CREATE INDEX ON indexed (a); CREATE INDEX ON indexed (b); CREATE INDEX ON indexed (c);
CREATE INDEX ON indexed (d); CREATE INDEX ON indexed (e);
ALTER TABLE wide ALTER body SET STORAGE EXTERNAL;
"""


def schema(scale: float) -> str:
    """Tables and the rows that are there before; the same on the source and on every destination."""
    return (
        f"{_DDL}"
        f"INSERT INTO accounts SELECT i, 1 + i % {BRANCHES}, 0, ''"
        f" FROM generate_series(1, {_accounts(scale)}) i;"
        f"INSERT INTO tellers SELECT i, 1 + i % {BRANCHES}, 0, '' FROM generate_series(1, {BRANCHES * 10}) i;"
        f"INSERT INTO branches SELECT i, 0, '' FROM generate_series(1, {BRANCHES}) i;"
        f"INSERT INTO wide SELECT i, 0, repeat(md5(i::text), 100), jsonb_build_object('k', i)"
        f" FROM generate_series(1, {max(100, int(5_000 * scale))}) i;"
    )


def _accounts(scale: float) -> int:
    return max(1_000, int(500_000 * scale))


def tpcb(scale: float) -> str:
    return f"""
\\set aid random(1, {_accounts(scale)})
\\set tid random(1, {BRANCHES * 10})
\\set bid random(1, {BRANCHES})
\\set delta random(-5000, 5000)
BEGIN;
UPDATE accounts SET abalance = abalance + :delta WHERE aid = :aid;
UPDATE tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO history VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP, '');
END;
"""


@dataclass(frozen=True, slots=True)
class Workload:
    """rows: that it changes. statements: one transaction each. script: run by pgbench instead, in
    `transactions` transactions."""

    name: str
    rows: int
    statements: tuple[str, ...] = ()
    script: str = ""
    transactions: int = 0

    def load(self, source: PostgresServer, uri: str) -> None:
        """Do it on the source, whose commits need not wait for its disk."""
        run_sql(uri, "SET synchronous_commit = off", *self.statements)
        if self.transactions:
            script = source.root / "workload.sql"
            script.write_text(self.script)
            command = [str(source.bin_dir / "pgbench"), "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "1"]
            command += ["-t", str(self.transactions // CLIENTS), "-f", str(script), uri]
            env = {**os.environ, "PGOPTIONS": "-c synchronous_commit=off"}
            subprocess.run(command, check=True, capture_output=True, env=env)


def workloads(scale: float) -> list[Workload]:
    """At scale 1: 100,000 transactions, a million rows inserted, half a million updated at once."""
    transactions = max(CLIENTS, int(100_000 * scale))
    inserted = int(1_000_000 * scale)
    wide = int(20_000 * scale)
    indexed = int(200_000 * scale)
    return [
        Workload("TPC-B transactions", transactions * 4, (), tpcb(scale), transactions),
        Workload(
            "bulk insert",
            inserted,
            (f"INSERT INTO history SELECT 1, 1, i, i, now(), '' FROM generate_series(1, {inserted}) i",),
        ),
        Workload("bulk update", _accounts(scale), ("UPDATE accounts SET abalance = abalance + 1",)),
        Workload(
            "wide rows, TOAST",
            2 * wide,
            (
                f"INSERT INTO wide SELECT i + 100000, 0, repeat(md5(i::text), 100),"
                f" jsonb_build_object('k', i) FROM generate_series(1, {wide}) i",
                "UPDATE wide SET n = n + 1",
            ),
        ),
        Workload(
            "five secondary indexes",
            indexed,
            (
                f"INSERT INTO indexed SELECT i, i % 1000, md5(i::text), now(), i / 7.0, gen_random_uuid()"
                f" FROM generate_series(1, {indexed}) i",
            ),
        ),
    ]
