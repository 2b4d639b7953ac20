"""Change capture against native logical replication: the same WAL, a slot each, one run.

Every contestant replays the same workload of one source into a database of its own on one
destination server. Slots are made before the workload and each contestant begins from a standing
start, so that each reads the whole of it at its own pace. The rounds replay the same WAL again,
from further slots, in alternating order. `walsender alone` only reads the stream and drops it:
nobody can be faster than that.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass

from services.shared.model import Lsn
from services.shared.pg.replication import ReplicationConnection
from tests.bench import latency, pgcopydb
from tests.bench.arena import Arena, arena, fingerprint, run_sql, value
from tests.bench.followers import Follower, Native, Pgmig
from tests.bench.processes import Usage
from tests.bench.report import cpu_text, peak_text, spread
from tests.bench.workloads import TABLES, Workload, schema, workloads

POLL_S = 0.01
LOOK_EVERY = 25
"""Polls between two looks at the processes."""
TIMEOUT_S = 300.0
OUR_PROCESSES = ("decoder", "applier", "nats-server")


@dataclass(frozen=True, slots=True)
class Result:
    seconds: float
    usage: dict[str, Usage]


def race(follower: Follower, target: Lsn) -> Result:
    """From a standing start until the destination has committed everything."""
    follower.warm()
    began = time.monotonic()
    follower.start()
    polls = 0
    while follower.progress() < target:
        polls += 1
        if polls % LOOK_EVERY == 0:
            follower.look()
        if time.monotonic() - began > TIMEOUT_S:
            raise TimeoutError(f"{follower.name} did not catch up")
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


def contest(found: Arena, number: int, workload: Workload, scale: float, rounds: int) -> None:
    """One workload, every contestant, every round."""
    source = found.source.create_database(f"s{number}")
    template = f"base{number}"
    for uri in (source, found.destination.create_database(template)):
        run_sql(uri, schema(scale), "VACUUM ANALYZE")
    run_sql(source, f"CREATE PUBLICATION everything FOR TABLE {', '.join(TABLES)}")
    order: list[Follower] = []
    for turn in range(rounds):
        pair = (Native, Pgmig) if turn % 2 == 0 else (Pgmig, Native)
        order += [kind(found, source, f"w{number}r{turn}", template, "everything") for kind in pair]
    for follower in order:
        follower.prepare()
    run_sql(source, f"SELECT pg_create_logical_replication_slot('floor{number}', 'pgoutput')")
    start = Lsn.parse(value(source, "SELECT pg_current_wal_lsn()::text"))
    workload.load(found.source, source)
    target = last_commit(source)
    run_sql(source, "CHECKPOINT")
    alone = asyncio.run(floor(source, f"floor{number}", start, target))
    run_sql(source, f"SELECT pg_drop_replication_slot('floor{number}')")
    expected = fingerprint(source)
    results: dict[str, list[Result]] = {}
    for follower in order:
        results.setdefault(follower.name, []).append(race(follower, target))
        found_rows = fingerprint(follower.destination)
        follower.close()
        if found_rows != expected:
            raise SystemExit(f"{workload.name}: the rows of {follower.name} differ from the source's")
    show(workload, results["native"], results["pgmig"], alone)
    found.source.drop_database(f"s{number}")
    found.destination.drop_database(template)


def show(workload: Workload, native: list[Result], pgmig: list[Result], alone: float) -> None:
    theirs, ours = ([one.seconds for one in runs] for runs in (native, pgmig))
    ratio = statistics.median(theirs) / statistics.median(ours)
    per_row = statistics.median(ours) / workload.rows * 1e6
    print(f"{workload.name} ({workload.rows:,} rows): pgmig is {ratio:.2f}x as fast as native; rows equal")
    print(f"  seconds   native {spread(theirs)}   pgmig {spread(ours)}   walsender alone {alone:.2f}")
    print(f"  CPU s     native: {cpu_text([one.usage for one in native])}")
    print(f"            pgmig:  {cpu_text([one.usage for one in pgmig])}")
    print(
        f"  peak RSS  {peak_text([one.usage for one in pgmig], OUR_PROCESSES)} MB"
        f"   pgmig {per_row:.2f} us a row",
        flush=True,
    )


def last_commit(source: str) -> Lsn:
    """Commit one more row that is followed; where its transaction ends, from a peek at a slot that
    holds nothing else."""
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
    with arena() as found:
        print(f"change capture, PostgreSQL {found.source.install.major} to {found.destination.install.major}")
        print(pgcopydb.why_not_following(found.source.uri()), flush=True)
        for number, workload in enumerate(workloads(scale)):
            if only in workload.name:
                contest(found, number, workload, scale, rounds)
        if only in latency.NAME:
            latency.contest(found, scale, rounds)
