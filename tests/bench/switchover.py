"""A switchover under load, measured by clients: for how long nobody's commit is acknowledged.

pgbench commits at a fixed rate on the source. Beside it, a few clients commit one row after another. The gap
of a client is the time from its last acknowledged commit on the source to its first one on the destination.
At the end every acknowledged commit must be on the destination.

direct   the clients go to the destination as soon as the source refuses them, and pgbench ends then
pooled   the clients and pgbench are connected to a PgBouncer, which the switchover pauses and a hook leads to
         the destination. None of them may see an error
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from services.shared.model import Phase
from tests.bench.arena import Arena, arena, run_sql, value
from tests.bench.latency import percentile
from tests.bench.report import spread
from tests.bench.workloads import schema, tpcb
from tests.support.migrations.cli import Cli
from tests.support.servers.pgbouncer import PgBouncer
from tests.support.servers.postgres import PostgresServer

RATE = 1000
SECONDS = 120.0
PGBENCH_CLIENTS = 8
CROSSING_CLIENTS = 4
STREAMING_S = 300.0
GIVE_UP_S = 60.0
AFTERWARDS_S = 10.0
"""For how long pgbench goes on when the switchover was requested, if it is pooled."""
IDS_PER_CLIENT = 10_000_000
NAME = "shop"


@dataclass(frozen=True, slots=True)
class Crossing:
    """gaps: of each client, in milliseconds. reported: the write downtime that the switchover reported.
    rate: transactions per second that pgbench had acknowledged. commits: those that were looked for. load: of
    the machine, its average of the last minute."""

    gaps: tuple[float, ...]
    reported: float
    rate: float
    commits: int
    load: float


class Load:
    """pgbench, until the source refuses it or its time is over. pooled: it is connected to a pooler, and may
    see no error."""

    def __init__(
        self, source: PostgresServer, uri: str, scale: float, seconds: float, *, pooled: bool
    ) -> None:
        script = source.root / "switchover.sql"
        script.write_text(tpcb(scale))
        protocol = "extended" if pooled else "prepared"  # statements belong to one of the pooler's sessions
        command = [str(source.bin_dir / "pgbench"), "-n", "-M", protocol, "-c", str(PGBENCH_CLIENTS)]
        command += ["-j", "1", "-R", str(RATE), "-T", str(int(seconds)), "-f", str(script), uri]
        options = {} if pooled else {"PGOPTIONS": "-c synchronous_commit=off"}
        self._pooled, self._began = pooled, time.monotonic()
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **options},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if pooled else subprocess.DEVNULL,
            text=True,
        )

    def acknowledged(self) -> tuple[int, float]:
        """Transactions, and how many there were per second, after its end. Raises RuntimeError for an error
        that it must not see."""
        out, errors = self._process.communicate()
        if self._pooled and self._process.returncode:
            raise RuntimeError(f"pgbench has seen an error:\n{errors}")
        found = re.search(r"actually processed: (\d+)", out)
        assert found is not None, out
        return int(found[1]), int(found[1]) / (time.monotonic() - self._began)


@dataclass(frozen=True, slots=True)
class Way:
    """Two databases, and how clients reach them. uri: that pgbench uses. mode, known: of the clients of
    tests.bench.crossing. options: of the switchover. variables: of pgmig-cli's environment."""

    server: PostgresServer
    source: str
    destination: str
    uri: str
    mode: str
    known: dict[str, Any]
    options: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()

    @property
    def pooled(self) -> bool:
        return self.mode == "pooled"

    def start(self, number: int) -> subprocess.Popen[str]:
        """Start a client."""
        given = json.dumps({**self.known, "first": number * IDS_PER_CLIENT})
        return subprocess.Popen(
            [sys.executable, "-m", "tests.bench.crossing", self.mode, given],
            stdout=subprocess.PIPE,
            text=True,
        )


@contextmanager
def _way(found: Arena, source: str, destination: str, *, pooled: bool) -> Iterator[Way]:
    if not pooled:
        server = found.source
        yield Way(
            server,
            source,
            destination,
            source,
            "direct",
            {"uris": (source, destination), "give_up_s": GIVE_UP_S},
        )
        return
    with PgBouncer({NAME: source}) as pooler:
        uri = pooler.uri(NAME)
        options = ("--hook-after-decision", pooler.leading(NAME, destination))
        variables = (("PGMIG_PAUSE_POOLER", uri),)
        known = {"uri": uri, "source_port": found.source.port}
        yield Way(found.source, source, destination, uri, "pooled", known, options, variables)


def gap_ms(acknowledged: Sequence[tuple[int, int, float]]) -> float:
    """From the last commit on the source to the first on the destination."""
    last = max(at for _, side, at in acknowledged if side == 0)
    return 1e3 * (min(at for _, side, at in acknowledged if side == 1) - last)


def one_round(found: Arena, number: int, scale: float, folder: Path, *, pooled: bool) -> Crossing:
    """One migration. scale: of the tables and of the time."""
    source = found.source.create_database(f"crossing{number}")
    destination = found.destination.create_database(f"crossing{number}")
    run_sql(source, schema(scale), "CREATE TABLE crossing (id bigint PRIMARY KEY)", "VACUUM ANALYZE")
    with _way(found, source, destination, pooled=pooled) as way:
        crossing = _cross(way, scale, folder)
    found.source.drop_database(f"crossing{number}")
    found.destination.drop_database(f"crossing{number}")
    return crossing


def _cross(way: Way, scale: float, folder: Path) -> Crossing:
    cli = Cli.on(way.source, way.destination, folder / "state", **dict(way.variables))
    options, seconds = ("--follow", "--no-key-tables", "insert-only"), max(5.0, SECONDS * scale)
    with cli.start("clone", *options, log=folder / "clone.log") as clone:
        clone.until(lambda view: view.phase is Phase.STREAMING, STREAMING_S)
        longest = seconds + (AFTERWARDS_S if way.pooled else GIVE_UP_S)
        load = Load(way.server, way.uri, scale, longest, pooled=way.pooled)
        clients = [way.start(number) for number in range(CROSSING_CLIENTS)]
        time.sleep(seconds)
        machine = os.getloadavg()[0]
        done = cli.run("switchover", *way.options)
        if done.returncode:
            raise RuntimeError(f"the switchover failed:\n{done.stderr}")
        logs = [json.loads(client.communicate()[0]) for client in clients]
        if errors := [error for log in logs for error in log["errors"]]:
            raise RuntimeError("\n".join(["clients have seen errors:", *errors]))
        transactions, rate = load.acknowledged()
        view = clone.until(lambda view: view.switchover is not None, STREAMING_S)
    assert view.switchover is not None
    ids = {row[0] for log in logs for row in log["acknowledged"]}
    _check_arrived(way.destination, ids, transactions)
    cli.run("cleanup")
    gaps = tuple(gap_ms(log["acknowledged"]) for log in logs)
    return Crossing(gaps, view.switchover.write_downtime_ms, rate, len(ids) + transactions, machine)


def _check_arrived(destination: str, ids: set[int], transactions: int) -> None:
    """Raises RuntimeError unless everything that was acknowledged is there."""
    with psycopg.connect(destination) as conn:
        there = {row[0] for row in conn.execute("SELECT id FROM crossing")}
    if missing := ids - there:
        raise RuntimeError(f"{len(missing)} acknowledged rows are missing, such as {min(missing)}")
    history = int(value(destination, "SELECT count(*) FROM history"))
    if history < transactions:
        raise RuntimeError(f"pgbench had {transactions} commits acknowledged, {history} are there")


def main(scale: float, rounds: int, *, pooled: bool) -> None:
    with arena({"wal_level": "logical"}) as found, tempfile.TemporaryDirectory(prefix="pgmig-bench-") as root:
        crossings = []
        for number in range(rounds):
            folder = Path(root) / str(number)
            folder.mkdir()
            crossings.append(one_round(found, number, scale, folder, pooled=pooled))
            print(f"round {number + 1}: {_line(crossings[-1])}", flush=True)
        show(crossings, pooled=pooled)


def _line(crossing: Crossing) -> str:
    gaps = ", ".join(f"{gap:.0f}" for gap in sorted(crossing.gaps))
    return (
        f"gaps {gaps} ms, reported {crossing.reported:.0f} ms, {crossing.rate:.0f} transactions/s, "
        f"all of {crossing.commits:,} acknowledged commits arrived, load {crossing.load:.1f}"
    )


def show(crossings: Sequence[Crossing], *, pooled: bool) -> None:
    worst = sorted(max(crossing.gaps) for crossing in crossings)
    how = "behind a paused pooler, no client has seen an error" if pooled else "direct"
    print(f"switchover under load, {how}")
    print(f"  {len(crossings)} rounds, the slowest of {CROSSING_CLIENTS} clients each")
    print(f"  gap between acknowledged commits  {spread(worst)} ms   p95 {percentile(worst, 0.95):.0f} ms")
    print(f"  reported write downtime           {spread([one.reported for one in crossings])} ms")
    print(f"  load average                      {spread([one.load for one in crossings])}", flush=True)
