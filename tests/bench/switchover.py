"""A switchover under load, measured by clients: for how long nobody's commit is acknowledged.

pgbench commits at a fixed rate on the source. Beside it, a few clients commit one row after another, and go
to the destination as soon as the source refuses them. The gap of a client is the time from its last
acknowledged commit on the source to its first one on the destination. At the end every acknowledged commit
must be on the destination.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from services.shared.model import Phase
from tests.bench.arena import Arena, arena, run_sql, value
from tests.bench.latency import percentile
from tests.bench.report import spread
from tests.bench.workloads import schema, tpcb
from tests.support.migrations.cli import Cli
from tests.support.servers.postgres import PostgresServer

RATE = 1000
SECONDS = 120.0
PGBENCH_CLIENTS = 8
CROSSING_CLIENTS = 4
STREAMING_S = 300.0
GIVE_UP_S = 60.0
IDS_PER_CLIENT = 10_000_000


@dataclass(frozen=True, slots=True)
class Crossing:
    """gaps: of each client, in milliseconds. reported: the write downtime that the switchover reported.
    rate: transactions per second that pgbench had acknowledged. commits: those that were looked for."""

    gaps: tuple[float, ...]
    reported: float
    rate: float
    commits: int


class Load:
    """pgbench, until the source refuses it or its time is over."""

    def __init__(self, source: PostgresServer, uri: str, scale: float, seconds: float) -> None:
        script = source.root / "switchover.sql"
        script.write_text(tpcb(scale))
        command = [str(source.bin_dir / "pgbench"), "-n", "-M", "prepared", "-c", str(PGBENCH_CLIENTS)]
        command += ["-j", "1", "-R", str(RATE), "-T", str(int(seconds)), "-f", str(script), uri]
        env = {**os.environ, "PGOPTIONS": "-c synchronous_commit=off"}
        self._began = time.monotonic()
        self._process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def acknowledged(self) -> tuple[int, float]:
        """Transactions, and how many there were per second, after the source has refused it."""
        out, _ = self._process.communicate()
        found = re.search(r"actually processed: (\d+)", out)
        assert found is not None, out
        return int(found[1]), int(found[1]) / (time.monotonic() - self._began)


def _start_crossing(uris: Sequence[str]) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.bench.crossing",
                json.dumps({"uris": uris, "first": number * IDS_PER_CLIENT, "give_up_s": GIVE_UP_S}),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(CROSSING_CLIENTS)
    ]


def gap_ms(acknowledged: Sequence[tuple[int, int, float]]) -> float:
    """From the last commit on the source to the first on the destination."""
    last = max(at for _, side, at in acknowledged if side == 0)
    return 1e3 * (min(at for _, side, at in acknowledged if side == 1) - last)


def one_round(found: Arena, number: int, scale: float, folder: Path) -> Crossing:
    """One migration. scale: of the tables and of the time."""
    source = found.source.create_database(f"crossing{number}")
    destination = found.destination.create_database(f"crossing{number}")
    run_sql(source, schema(scale), "CREATE TABLE crossing (id bigint PRIMARY KEY)", "VACUUM ANALYZE")
    cli, seconds = Cli.on(source, destination, folder / "state"), max(5.0, SECONDS * scale)
    options = ("--follow", "--no-key-tables", "insert-only")
    with cli.start("clone", *options, log=folder / "clone.log") as clone:
        clone.until(lambda view: view.phase is Phase.STREAMING, STREAMING_S)
        load = Load(found.source, source, scale, seconds + GIVE_UP_S)
        clients = _start_crossing((source, destination))
        time.sleep(seconds)
        done = cli.run("switchover")
        if done.returncode:
            raise RuntimeError(f"the switchover failed:\n{done.stderr}")
        seen = [json.loads(client.communicate()[0]) for client in clients]
        transactions, rate = load.acknowledged()
        view = clone.until(lambda view: view.switchover is not None, STREAMING_S)
    assert view.switchover is not None
    ids = {row[0] for rows in seen for row in rows}
    _check_arrived(destination, ids, transactions)
    cli.run("cleanup")
    found.source.drop_database(f"crossing{number}")
    found.destination.drop_database(f"crossing{number}")
    gaps = tuple(gap_ms(rows) for rows in seen)
    return Crossing(gaps, view.switchover.write_downtime_ms, rate, len(ids) + transactions)


def _check_arrived(destination: str, ids: set[int], transactions: int) -> None:
    """Raises RuntimeError unless everything that was acknowledged is there."""
    with psycopg.connect(destination) as conn:
        there = {row[0] for row in conn.execute("SELECT id FROM crossing")}
    if missing := ids - there:
        raise RuntimeError(f"{len(missing)} acknowledged rows are missing, such as {min(missing)}")
    history = int(value(destination, "SELECT count(*) FROM history"))
    if history < transactions:
        raise RuntimeError(f"pgbench had {transactions} commits acknowledged, {history} are there")


def main(scale: float, rounds: int) -> None:
    with arena({"wal_level": "logical"}) as found, tempfile.TemporaryDirectory(prefix="pgmig-bench-") as root:
        crossings = []
        for number in range(rounds):
            folder = Path(root) / str(number)
            folder.mkdir()
            crossings.append(one_round(found, number, scale, folder))
            print(f"round {number + 1}: {_line(crossings[-1])}", flush=True)
        show(crossings)


def _line(crossing: Crossing) -> str:
    gaps = ", ".join(f"{gap:.0f}" for gap in sorted(crossing.gaps))
    return (
        f"gaps {gaps} ms, reported {crossing.reported:.0f} ms, {crossing.rate:.0f} transactions/s, "
        f"all of {crossing.commits:,} acknowledged commits arrived"
    )


def show(crossings: Sequence[Crossing]) -> None:
    worst = sorted(max(crossing.gaps) for crossing in crossings)
    print(f"switchover under load, {len(crossings)} rounds, the slowest of {CROSSING_CLIENTS} clients each")
    print(f"  gap between acknowledged commits  {spread(worst)} ms   p95 {percentile(worst, 0.95):.0f} ms")
    print(f"  reported write downtime           {spread([one.reported for one in crossings])} ms", flush=True)
