"""make demo: a live database moves to a server of another version, and nothing is lost.

Two PostgreSQL servers are started here, and the suite as a user would start it: `pgmig-cli clone
--follow` with its embedded stack. An application commits all the while, over several connections
whose commits interleave, until the switchover shuts it out. Then every row, sequence and
definition is compared, every acknowledged commit is looked for, the application goes on at the
destination, and `cleanup` has to leave nothing behind.

Exit code: 0 when all is well, 1 when anything differs or a step fails (then it says where the logs
are), 130 for Ctrl-C; in every case the processes are ended and the databases are gone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.shared.model import MigrationView, Phase, TableState
from tests.support.data.schema import seed
from tests.support.data.workload import Writer, WriterReport
from tests.support.migrations.cli import Cli, Staying
from tests.support.migrations.phases import phase_rows
from tests.support.migrations.timeline import Timeline
from tests.support.migrations.verdict import (
    Check,
    checks,
    count_rows,
    exit_code,
    left_on_destination,
    left_on_source,
)
from tests.support.servers.installs import newest, oldest
from tests.support.servers.postgres import PostgresServer

DATABASE = "shop"
ROWS = 500_000
LIVE_S = 10.0
CONNECTIONS = 4
RATE = 100.0
"""Transactions per second in all, as long as this machine has the power to follow them."""
SLOW_AFTER_S = 20.0
PHASE_TIMEOUT_S = 300.0
NEAR_S = 1.0
"""Lag below which the switchover is asked for."""
COMMITS_AFTERWARDS = 100


class StepFailedError(Exception):
    """A command did not do what it should; its output is the text."""


@dataclass(frozen=True, slots=True)
class Options:
    """rows: seeded, about. seconds: of live writes once the copy is in step. keep: servers and
    logs stay until Ctrl-C."""

    rows: int = ROWS
    seconds: float = LIVE_S
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Databases:
    source: PostgresServer
    dest: PostgresServer

    @property
    def source_uri(self) -> str:
        return self.source.uri(DATABASE)

    @property
    def dest_uri(self) -> str:
        return self.dest.uri(DATABASE)


class Demo:
    """One run. folder: for state and logs."""

    def __init__(self, options: Options, folder: Path, timeline: Timeline) -> None:
        self._options = options
        self._logs = folder / "logs"
        self._logs.mkdir()
        self._state = folder / "state"
        self._tell = timeline

    def run(self) -> int:
        """The exit code; the demo's own, or that of a command that failed."""
        with self._databases() as databases:
            try:
                return self._migrate(databases)
            finally:
                self._collect_logs(databases)

    @contextmanager
    def _databases(self) -> Iterator[Databases]:
        self._tell.now("starting two PostgreSQL servers")
        with ExitStack() as stack:
            pair = Databases(PostgresServer(oldest()), PostgresServer(newest()))
            servers = (pair.source, pair.dest)
            for server in servers:
                stack.callback(server.destroy)
            with ThreadPoolExecutor(len(servers)) as pool:
                list(pool.map(PostgresServer.start, servers))
            for role, server in zip(("source", "destination"), servers, strict=True):
                server.create_database(DATABASE)
                self._tell.say(role, f"PostgreSQL {_version(server)} on 127.0.0.1:{server.port}")
            self._tell.now(f"seeding about {self._options.rows:,} rows")
            seed(pair.source_uri, self._options.rows)
            self._tell.say("seeded", f"{count_rows(pair.source_uri):,} rows, {_size(pair.source)}")
            yield pair

    def _migrate(self, databases: Databases) -> int:
        cli = Cli.on(databases.source_uri, databases.dest_uri, self._state)
        with Writer(databases.source_uri, connections=CONNECTIONS, rate=RATE) as writer:
            writer.wait_for_commits(1)
            self._tell.say("application", f"{CONNECTIONS} connections commit from now on")
            self._tell.command("pgmig-cli clone --follow")
            with cli.start("clone", "--follow", log=self._logs / "clone.log") as clone:
                self._until_streaming(clone, writer)
                self._live_writes(clone, writer)
                self._switch_over(cli)
                report = writer.wait_until_cut_off()
                final = self._until_ended(clone)
        self._tell.table(phase_rows(final))
        found = self._verdict(cli, databases, report)
        for check in found:
            (self._tell.failed if check.problems else self._tell.passed)(check.title, *_given(check))
        self._conclude(found, final, report)
        if self._options.keep:
            self._keep(databases)
        return exit_code(found)

    def _until_streaming(self, clone: Staying, writer: Writer) -> None:
        """Tell of every phase as it comes."""
        phase: Phase | None = None
        rate, slow_at = RATE, 0.0
        deadline = time.monotonic() + PHASE_TIMEOUT_S
        while phase is not Phase.STREAMING:
            view = clone.next(deadline - time.monotonic())
            if view is None:
                raise TimeoutError(f"not streaming after {PHASE_TIMEOUT_S:g} s, but in phase {phase}")
            if view.phase is not phase:
                phase = view.phase
                self._tell.say(str(phase), _phase_text(view))
                slow_at = time.monotonic() + SLOW_AFTER_S
            if phase is Phase.CATCHUP and time.monotonic() > slow_at:
                rate, slow_at = rate / 2, time.monotonic() + SLOW_AFTER_S
                writer.pace(rate)
                self._tell.say("slow machine", f"the application slows down to {rate:g} commits/s")
            self._tell.now(f"{phase}: {_progress_text(view)}; {writer.commits:,} commits")

    def _live_writes(self, clone: Staying, writer: Writer) -> None:
        """Let the application work for a while, then wait until the lag is small."""
        began, commits = time.monotonic(), writer.commits
        until = began + self._options.seconds
        worst = 0.0
        view = clone.last
        while time.monotonic() < until or view is None or view.positions.lag_seconds > NEAR_S:
            if time.monotonic() > until + PHASE_TIMEOUT_S:
                raise TimeoutError("the destination does not catch up")
            view = clone.next(0.5) or view
            if view is not None:
                worst = max(worst, view.positions.lag_seconds)
                self._tell.now(f"in step: {_progress_text(view)}; {writer.commits:,} commits")
        rate = (writer.commits - commits) / (time.monotonic() - began)
        assert view is not None
        self._tell.say(
            "in step",
            f"{rate:,.0f} commits/s on the source, lag at most {worst:.1f} s, "
            f"now {view.positions.lag_seconds:.1f} s; {writer.commits:,} commits so far",
        )

    def _switch_over(self, cli: Cli) -> None:
        self._tell.command("pgmig-cli switchover --timeout 30s")
        self._tell.now("switching over")
        steps = [json.loads(line) for line in _done(cli, "switchover", "--timeout", "30s", "-o", "json")]
        took = ", ".join(f"{s['name']} {s['elapsed_ms']} ms" for s in steps if s["state"] == "done")
        self._tell.say("switchover", f"since writes were blocked: {took}")

    def _until_ended(self, clone: Staying) -> MigrationView:
        view = clone.until(lambda view: view.phase.ended, PHASE_TIMEOUT_S)
        if code := clone.wait():
            raise StepFailedError(f"pgmig-cli clone ended with exit code {code}")
        return view

    def _verdict(self, cli: Cli, databases: Databases, report: WriterReport) -> list[Check]:
        source, dest = databases.source_uri, databases.dest_uri
        self._tell.now("comparing every row")
        began = self._tell.elapsed
        found = checks(source, dest, report)
        rows = count_rows(dest)
        self._tell.say("compared", f"{rows:,} rows in {self._tell.elapsed - began:.1f} s")
        self._tell.now("the application goes on at the destination")
        found.append(_goes_on(dest))
        self._tell.command("pgmig-cli cleanup")
        self._tell.now("cleaning up")
        shutil.copytree(self._state, self._logs / "state", symlinks=True, dirs_exist_ok=True)
        _done(cli, "cleanup")
        left = [f"{thing} on the source" for thing in left_on_source(source)]
        left += [f"{thing} on the destination" for thing in left_on_destination(dest)]
        found.append(Check("no slot, publication, origin or schema of the migration is left", tuple(left)))
        return found

    def _conclude(self, found: list[Check], final: MigrationView, report: WriterReport) -> None:
        downtime = final.switchover.write_downtime_ms if final.switchover else 0
        self._tell.verdict(
            exit_code(found) == 0,
            f"{len(report.acknowledged):,} transactions committed during the migration; "
            f"writes were blocked for {downtime:,} ms; {self._tell.elapsed:.0f} s in all",
        )

    def _keep(self, databases: Databases) -> None:
        self._tell.say("kept", f"source       {databases.source_uri}")
        self._tell.say("kept", f"destination  {databases.dest_uri}")
        self._tell.say("kept", f"logs         {self._logs}")
        self._tell.now("Ctrl-C ends the servers and removes everything")
        signal.pause()

    def _collect_logs(self, databases: Databases) -> None:
        """Beside those of the commands: of the servers, and of the services while they are there."""
        for name, server in (("source", databases.source), ("destination", databases.dest)):
            if server.log_path.exists():
                shutil.copy(server.log_path, self._logs / f"{name}.log")
        if self._state.exists() and not (self._logs / "state").exists():
            shutil.copytree(self._state, self._logs / "state", symlinks=True)


def _done(cli: Cli, *arguments: str) -> list[str]:
    """The lines on a command's stdout. Raises StepFailedError unless it ends with 0."""
    done = cli.run(*arguments)
    if done.returncode:
        raise StepFailedError(
            f"pgmig-cli {arguments[0]} ended with exit code {done.returncode}: {done.stderr.strip()}"
        )
    return done.stdout.splitlines()


def _goes_on(dest: str) -> Check:
    """The application works at the destination: no key is taken, no sequence is behind."""
    trouble: list[str] = []
    with Writer(dest, connections=CONNECTIONS, rate=None, seed=2) as writer:
        try:
            writer.wait_for_commits(COMMITS_AFTERWARDS)
            writer.stop()
        except (TimeoutError, ExceptionGroup) as exc:
            trouble.append(f"it cannot: {exc}")
    return Check(f"the application goes on at the destination ({writer.commits:,} commits)", tuple(trouble))


def _given(check: Check) -> tuple[tuple[str, ...], ...]:
    return (check.problems,) if check.problems else ()


def _version(server: PostgresServer) -> str:
    with server.connect() as conn:
        row = conn.execute("SELECT current_setting('server_version')").fetchone()
    return str(row[0]).split()[0] if row else "?"


def _size(server: PostgresServer) -> str:
    with server.connect(DATABASE) as conn:
        row = conn.execute("SELECT pg_size_pretty(pg_database_size(current_database()))").fetchone()
    return str(row[0]) if row else "?"


def _phase_text(view: MigrationView) -> str:
    """What begins with the phase."""
    match view.phase:
        case Phase.SCHEMA:
            return "slot and snapshot on the source, tables on the destination"
        case Phase.COPY:
            return f"{len(view.tables)} tables"
        case Phase.INDEXES:
            return f"after {sum(table.rows_copied for table in view.tables):,} rows"
        case Phase.CATCHUP:
            return f"{view.indexes.total} indexes and constraints are built; now what was committed meanwhile"
        case Phase.STREAMING:
            return f"in step, {view.rates.transactions_applied:,} transactions applied"
        case _:
            return ""


def _progress_text(view: MigrationView) -> str:
    if view.phase is Phase.COPY:
        done = sum(table.state is TableState.COPIED for table in view.tables)
        rows = sum(table.rows_copied for table in view.tables)
        rate = view.rates.bytes_per_second / 2**20
        return f"{done} of {len(view.tables)} tables, {rows:,} rows, {rate:.0f} MiB/s"
    if view.phase is Phase.INDEXES:
        return f"{view.indexes.done} of {view.indexes.total} indexes"
    rates = view.rates
    return (
        f"{rates.rows_per_second:,.0f} rows/s, {rates.transactions_per_second:,.0f} transactions/s, "
        f"lag {view.positions.lag_seconds:.1f} s"
    )


def run(options: Options) -> int:
    """The whole demo; returns its exit code. Raises KeyboardInterrupt with everything put away."""
    folder = Path(tempfile.mkdtemp(prefix="pgmig-demo-"))
    keep_folder = False
    try:
        with Timeline() as timeline:
            try:
                code = Demo(options, folder, timeline).run()
            except Exception as exc:  # whatever it is, the reader needs the logs
                timeline.failed(f"{type(exc).__name__}: {exc}")
                timeline.verdict(False, "a step of the demo failed")
                code = 1
            keep_folder = code != 0
            if keep_folder:
                timeline.say("logs", str(folder / "logs"))
        return code
    finally:
        if not keep_folder:
            shutil.rmtree(folder, ignore_errors=True)


def _interrupted(_number: int, _frame: object) -> None:
    """The first signal ends the demo; while it puts everything away, no other may disturb it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(prog="make demo", description="Migrate a live database and prove it.")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows to begin with (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=LIVE_S, help="of live writes in step (default: %(default)s)"
    )
    parser.add_argument("--keep", action="store_true", help="keep servers and logs until Ctrl-C")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    try:
        code = run(Options(given.rows, given.seconds, given.keep))
    except KeyboardInterrupt:
        print("interrupted; nothing is left behind", file=sys.stderr)
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
