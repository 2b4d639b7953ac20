"""Copying a database: pgmig's embedded `clone`, start-up included, against other tools, in one run.

Every contestant copies the same source database into a new one of its own on one destination
server, with the same number of jobs, in an order that turns from round to round. Afterwards rows,
indexes and constraints must be those of the source. Every database is copied at a tenth of its
size and at its size, so that what grows faster than the data shows.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import cloners
from tests.bench.arena import Arena, arena, definitions, fingerprint, run_sql
from tests.bench.cloners import Cloner, Job, Told
from tests.bench.pgcopydb import version
from tests.bench.processes import server_cpu_s
from tests.bench.report import spread
from tests.bench.shapes import Shape, shapes

SMALLER = 10
"""The first size of each database is this part of the second."""
OURS = "pgmig"
CLONERS: dict[str, Cloner] = {
    OURS: cloners.pgmig,
    "psql | psql": cloners.psql_pipe,
    "psql | psql FREEZE": cloners.psql_pipe_freeze,
    "pg_dump, pg_restore": cloners.pg_dump,
    "native sync": cloners.native,
    "pgcopydb": cloners.pgcopydb,
}
EXTRA_LOCKS = {"max_locks_per_transaction": "1024"}
"""One transaction of pg_restore or pg_dump locks every table."""


@dataclass(frozen=True, slots=True)
class Result:
    """CPU seconds: of the contestant's own processes, of the source server, of the destination's."""

    seconds: float
    own_cpu_s: float
    source_cpu_s: float
    destination_cpu_s: float
    told: Told


def measure(found: Arena, cloner: Cloner, source: str, name: str) -> tuple[Result, str]:
    """One copy into a new database; what it took, and the new database's URI."""
    destination = found.destination.create_database(name)
    run_sql(destination, "CHECKPOINT")
    folder = Path(tempfile.mkdtemp(prefix="pgmig-bench-"))
    job = Job(source, destination, found.source.uri(), found.destination.bin_dir, folder)
    servers = found.source.pid, found.destination.pid
    before = _own_cpu_s(), *map(server_cpu_s, servers)
    began = time.monotonic()
    try:
        told = cloner(job)
        seconds = time.monotonic() - began
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    own, there, here = (
        now - then for now, then in zip((_own_cpu_s(), *map(server_cpu_s, servers)), before, strict=True)
    )
    return Result(seconds, own, there, here, told), destination


def _own_cpu_s() -> float:
    """Of our children that have ended, and of theirs; the servers live on and are not among them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def contest(found: Arena, shape: Shape, names: Sequence[str], rounds: int) -> dict[str, list[Result]]:
    """Run every contestant in every round. One that fails or differs is reported and excluded."""
    source = found.source.create_database("original")
    run_sql(source, *shape.statements, "VACUUM ANALYZE", "CHECKPOINT")
    expected = fingerprint(source), definitions(source)
    results: dict[str, list[Result]] = {}
    left = list(names)
    for turn in range(rounds):
        for name in [*left[turn % len(left) :], *left[: turn % len(left)]]:
            try:
                result, destination = measure(found, CLONERS[name], source, "copy")
                if (fingerprint(destination), definitions(destination)) != expected:
                    raise RuntimeError("the copy differs from the source")
                results.setdefault(name, []).append(result)
            except (RuntimeError, TimeoutError, OSError) as exc:
                if name == OURS:
                    raise
                print(f"  {name} does not count: {exc}", flush=True)
                left.remove(name)
            found.destination.drop_database("copy")
    found.source.drop_database("original")
    return results


def show(shape: Shape, results: Mapping[str, Sequence[Result]]) -> None:
    ours = statistics.median(one.seconds for one in results[OURS])
    print(f"{shape.name}: {shape.units:,} {shape.unit}s, {shape.rows:,} rows; copies equal")
    for name, runs in results.items():
        median = statistics.median(one.seconds for one in runs)
        cpu = [
            statistics.median(getattr(one, field) for one in runs)
            for field in ("own_cpu_s", "source_cpu_s", "destination_cpu_s")
        ]
        ratio = "" if name == OURS else f"pgmig is {median / ours:.2f}x as fast"
        print(
            f"  {name:20} {spread([one.seconds for one in runs]):>18} s  {ratio:27}"
            f" {1e6 * median / shape.units:9.2f} us/{shape.unit}"
            f"  CPU s: own {cpu[0]:.2f}, source {cpu[1]:.2f}, destination {cpu[2]:.2f}"
        )
        parts = ", ".join(
            f"{part} {statistics.median(one.told.parts[part] for one in runs):.2f}"
            for part in runs[0].told.parts
        )
        print(f"    {parts}")
        if name == OURS:
            for process, usage in runs[-1].told.usage.items():
                print(f"    {process:12} CPU {usage.cpu_s:.2f} s, peak RSS {usage.peak_mb:.0f} MB")
    print(flush=True)


def _contestants(peers: str) -> list[str]:
    found = version()
    print(f"pgcopydb {found}" if found else "pgcopydb: not installed")
    there = [name for name in CLONERS if found or name != "pgcopydb"]
    return [name for name in there if name == OURS or any(part in name for part in peers.split(","))]


def main(scale: float, only: str, rounds: int, peers: str = "") -> None:
    """peers: parts of names, with commas; "" is everyone."""
    with arena(EXTRA_LOCKS) as found:
        print(f"clone, PostgreSQL {found.source.install.major} to {found.destination.install.major}")
        names = _contestants(peers)
        for small, full in zip(shapes(scale / SMALLER), shapes(scale), strict=True):
            if only in full.name:
                first = contest(found, small, names, rounds)
                show(small, first)
                second = contest(found, full, names, rounds)
                show(full, second)
                growth(full, first, second)


def growth(
    full: Shape, first: Mapping[str, Sequence[Result]], second: Mapping[str, Sequence[Result]]
) -> None:
    """The cost of one more unit between the two sizes, so without the cost of the start."""
    costs = []
    for name, runs in second.items():
        if name in first:
            more = statistics.median(one.seconds for one in runs) - statistics.median(
                one.seconds for one in first[name]
            )
            costs.append(f"{name} {1e6 * more / (full.units * (1 - 1 / SMALLER)):.2f}")
    print(f"  us for each further {full.unit}: {', '.join(costs)}\n", flush=True)
