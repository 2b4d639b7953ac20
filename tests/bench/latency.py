"""Measures the time from commit on the source until visible on the destination, at a steady rate.

pgmig and native replication run one after the other, in alternating order, with the same schedule of
transactions. A client of the destination queries the newest row all the time, at the same cost to both.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.arena import Arena, run_sql, value
from tests.bench.followers import Follower, Native, Pgmig
from tests.bench.processes import Usage
from tests.bench.report import cpu_text, spread
from tests.bench.workloads import TABLES, schema

NAME = "latency"
RATE = 500.0
SECONDS = 20.0
WARM_UP_S = 2.0
FIRST = 10_000_000
_NUMBER = "l"


@dataclass(frozen=True, slots=True)
class Latency:
    """p50, p99, worst: milliseconds from commit to visible. late_ms: p99 of the writer behind its
    schedule, which is the machine's doing."""

    p50: float
    p99: float
    worst: float
    late_ms: float
    rate: float
    usage: dict[str, Usage]


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the sorted values that covers `share` of them."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def delays(
    written: Sequence[tuple[int, float, float]], seen: Sequence[tuple[int, float]], after: float
) -> list[float]:
    """Sorted seconds from commit to visible of what was due later than `after`."""
    ids = [highest for highest, _ in seen]
    return sorted(
        seen[bisect_left(ids, number)][1] - committed for number, due, committed in written if due > after
    )


def measure(follower: Follower, first: int, seconds: float) -> Latency:
    """Start it, write to schedule, watch the destination."""
    follower.warm()
    follower.start()
    last = first + int(RATE * seconds) - 1
    watcher = _pulse("watch", uri=follower.destination, first=first, last=last)
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == b"ready\n"
    _wait_until_followed(follower, first - 1)
    writer = _pulse("write", uri=follower.source, first=first, rate=RATE, seconds=seconds)
    written, seen = (json.loads(process.communicate()[0]) for process in (writer, watcher))
    follower.look()
    after = written[0][1] + min(WARM_UP_S, seconds / 4)
    found = [1e3 * delay for delay in delays(written, seen, after)]
    late = sorted(1e3 * (committed - due) for _, due, committed in written if due > after)
    rate = (len(written) - 1) / (written[-1][2] - written[0][2])
    return Latency(
        percentile(found, 0.5),
        percentile(found, 0.99),
        found[-1],
        percentile(late, 0.99),
        rate,
        follower.usage(),
    )


def _wait_until_followed(follower: Follower, marker: int) -> None:
    """Return when a row written now has arrived: what comes before the steady state is over."""
    run_sql(follower.source, f"INSERT INTO accounts VALUES ({marker}, 1, 0, '')")
    while value(follower.destination, f"SELECT count(*) FROM accounts WHERE aid = {marker}") == "0":
        time.sleep(0.01)


def _pulse(role: str, **given: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.bench.pulse", role, json.dumps(given)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def contest(found: Arena, scale: float, rounds: int) -> None:
    """Every contestant, every round. scale: of the time, too."""
    source = found.source.create_database("latency")
    for uri in (source, found.destination.create_database("latency_template")):
        run_sql(uri, schema(scale / 10), "VACUUM ANALYZE")
    run_sql(source, f"CREATE PUBLICATION everything FOR TABLE {', '.join(TABLES)}")
    results: dict[str, list[Latency]] = {}
    first = FIRST
    for turn in range(rounds):
        for kind in (Native, Pgmig) if turn % 2 == 0 else (Pgmig, Native):
            follower = kind(found, source, f"{_NUMBER}r{turn}", "latency_template", "everything")
            follower.prepare()
            seconds = max(2.0, SECONDS * min(1.0, scale))
            results.setdefault(follower.name, []).append(measure(follower, first, seconds))
            follower.close()
            first += 1_000_000
    show(results)
    found.source.drop_database("latency")
    found.destination.drop_database("latency_template")


def show(results: Mapping[str, Sequence[Latency]]) -> None:
    print(f"commit to visible at {RATE:g} transactions/s")
    for name, runs in results.items():
        print(
            f"  {name:7} p50 {spread([run.p50 for run in runs])} ms"
            f"   p99 {spread([run.p99 for run in runs])} ms"
            f"   worst {spread([run.worst for run in runs])} ms"
            f"   (rate {spread([run.rate for run in runs])}/s,"
            f" writer late by p99 {spread([run.late_ms for run in runs])} ms)"
        )
        print(f"          CPU s: {cpu_text([run.usage for run in runs])}", flush=True)
