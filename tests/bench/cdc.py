"""Change capture against native logical replication: the same WAL, a slot each, one run.

Every contestant replays the same workload of one source into its own database on one destination server.
Slots are created before the workload, and each contestant starts after the workload, so each reads all of it
at its own speed. Each round replays the same WAL from other slots, in alternating order. `walsender alone`
only reads the stream and discards it, so no contestant can be faster. pgcopydb has a separate contest, with a
source that it can read. If it does not replay a workload, its output is printed and it does not count.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from services.shared.model import Lsn
from services.shared.pg.replication.connection import ReplicationConnection
from tests.bench import latency, pgcopydb
from tests.bench.arena import Arena, arena, drop_slot, fingerprint, run_sql, value
from tests.bench.followers import Follower, MakeFollower, Native, Pgmig
from tests.bench.pgcopydb import PgCopyDb
from tests.bench.processes import Usage
from tests.bench.report import cpu_text, peak_text, spread
from tests.bench.workloads import TABLES, Workload, schema, workloads

POLL_S = 0.01
LOOK_EVERY = 25
"""Polls between two looks at the processes."""
WITH_PGCOPYDB = ("TPC-B transactions", "bulk insert", "bulk update")
OUR_PROCESSES = ("decoder", "applier", "nats-server")


@dataclass(frozen=True, slots=True)
class Result:
    seconds: float
    usage: dict[str, Usage]


def race(follower: Follower, target: Lsn) -> Result:
    """Measure from the start of the follower until the destination has committed everything."""
    follower.warm()
    began = time.monotonic()
    follower.start(target)
    polls = 0
    while follower.progress() < target:
        polls += 1
        if polls % LOOK_EVERY == 0:
            follower.look()
        if time.monotonic() - began > follower.patience_s:
            raise TimeoutError(f"{follower.name} is not done after {follower.patience_s:.0f} s")
        time.sleep(POLL_S)
    seconds = time.monotonic() - began
    follower.look()
    return Result(seconds, follower.usage())


async def floor(source: str, slot: str, start: Lsn, target: Lsn) -> float:
    """Seconds to read everything from the walsender and drop it."""
    replication = await ReplicationConnection.open(source)
    try:
        began = time.monotonic()
        await replication.start(slot, start, "everything")
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


def contest(
    found: Arena, number: int, workload: Workload, scale: float, kinds: Sequence[MakeFollower]
) -> None:
    """One workload. kinds: of contestants, in the order in which they take their turns."""
    source = found.source.create_database(f"s{number}")
    template = f"base{number}"
    for uri in (source, found.destination.create_database(template)):
        run_sql(uri, schema(scale), "VACUUM ANALYZE")
    run_sql(source, f"CREATE PUBLICATION everything FOR TABLE {', '.join(TABLES)}")
    order = [
        kind(found, source, f"w{number}r{turn}", template, "everything") for turn, kind in enumerate(kinds)
    ]
    for follower in order:
        follower.prepare()
    run_sql(source, f"SELECT pg_create_logical_replication_slot('floor{number}', 'pgoutput')")
    start = Lsn.parse(value(source, "SELECT pg_current_wal_lsn()::text"))
    workload.load(found.source, source)
    target = last_commit(source)
    run_sql(source, "CHECKPOINT")
    alone = asyncio.run(floor(source, f"floor{number}", start, target))
    drop_slot(source, f"floor{number}")
    expected = fingerprint(source)
    results: dict[str, list[Result]] = {}
    for follower in order:
        try:
            result = race(follower, target)
            if fingerprint(follower.destination) != expected:
                raise RuntimeError(f"the rows of {follower.name} differ from the source's")
            results.setdefault(follower.name, []).append(result)
        except (RuntimeError, TimeoutError) as exc:
            if not isinstance(follower, PgCopyDb):
                raise
            print(f"{workload.name}: pgcopydb does not count: {exc} (it says: {follower.complaint()})")
        finally:
            follower.close()
    show(workload, results, alone)
    found.source.drop_database(f"s{number}")
    found.destination.drop_database(template)


def show(workload: Workload, results: dict[str, list[Result]], alone: float) -> None:
    native, pgmig = results["native"], results["pgmig"]
    theirs, ours = ([one.seconds for one in runs] for runs in (native, pgmig))
    ratio = statistics.median(theirs) / statistics.median(ours)
    per_row = statistics.median(ours) / workload.rows * 1e6
    print(f"{workload.name} ({workload.rows:,} rows): pgmig is {ratio:.2f}x as fast as native; rows equal")
    print(f"  seconds   native {spread(theirs)}   pgmig {spread(ours)}   walsender alone {alone:.2f}")
    print(f"  CPU s     native: {cpu_text([one.usage for one in native])}")
    print(f"            pgmig:  {cpu_text([one.usage for one in pgmig])}")
    for other in results.get(PgCopyDb.name, []):
        times = other.seconds / statistics.median(ours)
        print(f"  pgcopydb  {other.seconds:.2f} s, pgmig is {times:.1f}x as fast")
        print(f"            CPU s: {cpu_text([other.usage])}")
    print(
        f"  peak RSS  {peak_text([one.usage for one in pgmig], OUR_PROCESSES)} MB"
        f"   pgmig {per_row:.2f} us a row",
        flush=True,
    )


def last_commit(source: str) -> Lsn:
    """Commit one more row of a replicated table. Returns the end of its transaction, which is read from a
    slot that contains nothing else."""
    run_sql(source, "SELECT pg_create_logical_replication_slot('mark', 'pgoutput')")
    run_sql(source, "INSERT INTO history VALUES (0, 0, 0, 0, now(), 'end')")
    query = (
        "SELECT max(lsn)::text FROM pg_logical_slot_peek_binary_changes('mark', NULL, NULL,"
        " 'proto_version', '1', 'publication_names', 'everything')"
    )
    found = Lsn.parse(value(source, query))
    run_sql(source, "SELECT pg_drop_replication_slot('mark')")
    return found


def main(scale: float, only: str, rounds: int) -> None:
    chosen = [workload for workload in workloads(scale) if only in workload.name]
    with arena() as found:
        announce(found)
        for number, workload in enumerate(chosen):
            pairs = ((Native, Pgmig) if turn % 2 == 0 else (Pgmig, Native) for turn in range(rounds))
            contest(found, number, workload, scale, [kind for pair in pairs for kind in pair])
        if only in latency.NAME:
            latency.contest(found, scale, rounds)
    contest_with_pgcopydb([workload for workload in chosen if workload.name in WITH_PGCOPYDB], scale)


def contest_with_pgcopydb(chosen: Sequence[Workload], scale: float) -> None:
    """One round of the three, from a server that has what pgcopydb needs."""
    install, excuse = pgcopydb.source_install(), pgcopydb.why_not_following()
    if excuse:
        print(excuse)
    elif chosen:
        with arena(install=install) as found:
            announce(found, f", beside pgcopydb {pgcopydb.version()}")
            for number, workload in enumerate(chosen):
                contest(found, number, workload, scale, (Native, Pgmig, PgCopyDb))


def announce(found: Arena, more: str = "") -> None:
    majors = found.source.install.major, found.destination.install.major
    print(f"change capture, PostgreSQL {majors[0]} to {majors[1]}{more}", flush=True)
