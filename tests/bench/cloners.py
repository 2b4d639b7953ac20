"""The contestants that copy a database, all with the same number of jobs.

Each leaves the destination with rows, indexes, keys and statistics. Those whose tool does not
gather statistics run `vacuumdb --analyze-only` at the end, as their manuals advise.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg

from clients.embedded.stack import default_copiers
from services.shared.model.view.jsonview import view_from_json
from tests.bench.arena import run_sql, value
from tests.bench.processes import Tally, Usage, sampled
from tests.support.environment import clean_environment
from tests.support.migrations.cli import program
from tests.support.migrations.phases import phase_times
from tests.support.servers.process import tail

JOBS = 2
_ID = "bench"
_TABLES = (
    b"SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind = 'r'"
    b" AND c.relnamespace = 'public'::regnamespace ORDER BY c.relpages DESC"
)
_SYNC_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Job:
    """tools: folder with the PostgreSQL clients of the newer server. folder: empty, for files.
    source_server: a URI of its maintenance database."""

    source: str
    destination: str
    source_server: str
    tools: Path
    folder: Path

    def tool(self, name: str) -> str:
        return str(self.tools / name)


@dataclass(frozen=True, slots=True)
class Told:
    """What a contestant tells of itself. parts: seconds of its steps by name."""

    parts: Mapping[str, float] = field(default_factory=dict)
    usage: Mapping[str, Usage] = field(default_factory=dict)


Cloner = Callable[[Job], Told]


class _Steps:
    """Seconds of one step after another."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._since = time.monotonic()

    def done(self, name: str) -> None:
        now = time.monotonic()
        self.parts[name] = now - self._since
        self._since = now


def pgmig(job: Job) -> Told:
    """The whole command as a user gives it, from start-up to exit."""
    environment = clean_environment(
        PGMIG_SOURCE_URI=job.source,
        PGMIG_DEST_URI=job.destination,
        PGMIG_STATE_DIR=str(job.folder / "state"),
        PGMIG_ID=_ID,
    )
    log = job.folder / "clone.log"
    began = time.time()
    with log.open("wb") as output:
        workers = max(1, JOBS // default_copiers())
        command = [*program(), "clone", "--copy-workers", str(workers), "--index-workers", str(JOBS)]
        process = psutil.Popen(command, env=environment, stdin=-3, stdout=output, stderr=output)
        with sampled(lambda: _tree(process)) as tally:
            code = process.wait()
        ended = time.time()
    if code:
        raise RuntimeError(f"pgmig-cli clone ended with {code}:\n{tail(log)}")
    state = json.loads((job.folder / "state" / _ID / "state.json").read_text())
    view = view_from_json(state["view"])
    times = [(str(phase), seconds) for phase, seconds in phase_times(view)]
    within = sum(seconds for _, seconds in times)
    before = view.created_at - began
    parts = {"start": before, **dict(times), "stop": ended - began - before - within}
    return Told(parts, _by_name(tally))


def _tree(process: psutil.Popen) -> dict[int, str]:
    """The command and its descendants by what they are."""
    found: dict[int, str] = {}
    with suppress(psutil.Error):
        for member in [process, *process.children(recursive=True)]:
            with suppress(psutil.Error):
                if command := member.cmdline():  # one that is about to be gone has none
                    found[member.pid] = _kind(command)
    return found


def _kind(command: list[str]) -> str:
    for word in command:
        if word.startswith("services."):
            return word.removeprefix("services.")
    for name in ("nats-server", "pg_dump", "pg_restore", "pgmig-cli"):
        if any(Path(word).name == name for word in command):
            return name
    return "others"


def _by_name(tally: Tally) -> dict[str, Usage]:
    return dict(sorted(tally.usage().items(), key=lambda item: -item[1].cpu_s))


def psql_pipe(job: Job) -> Told:
    """psql | psql for each table, COPY in binary, JOBS at a time, the largest first."""
    return _psql_pipe(job, "FORMAT binary", "")


def psql_pipe_freeze(job: Job) -> Told:
    """The same with COPY FREEZE, which needs the table emptied in the same transaction."""
    return _psql_pipe(job, "FORMAT binary, FREEZE", "TRUNCATE {table}")


def _psql_pipe(job: Job, options: str, before: str) -> Told:
    steps = _Steps()
    _schema(job, "pre-data")
    steps.done("schema")
    with psycopg.connect(job.source) as conn:
        tables = [str(row[0]) for row in conn.execute(_TABLES)]

    def copy(table: str) -> None:
        read = [job.tool("psql"), "-qXc", f"COPY {table} TO STDOUT (FORMAT binary)", job.source]
        write = [job.tool("psql"), "-qX1", "-v", "ON_ERROR_STOP=1"]
        if before:
            write += ["-c", before.format(table=table)]
        write += ["-c", f"COPY {table} FROM STDIN ({options})", job.destination]
        with subprocess.Popen(read, stdout=subprocess.PIPE) as reader:
            subprocess.run(write, stdin=reader.stdout, check=True)
        if reader.returncode:
            raise RuntimeError(f"psql could not read {table}")

    with ThreadPoolExecutor(JOBS) as pool:
        list(pool.map(copy, tables))
    steps.done("copy")
    _post_data(job)
    steps.done("indexes")
    _analyze(job)
    steps.done("analyze")
    return Told(steps.parts)


def pg_dump(job: Job) -> Told:
    """pg_dump -Fd -j without compression, then pg_restore -j."""
    steps = _Steps()
    archive = str(job.folder / "dump")
    _run([job.tool("pg_dump"), "-Fd", "-j", str(JOBS), "-Z0", "-f", archive, job.source])
    steps.done("dump")
    _run([job.tool("pg_restore"), "-j", str(JOBS), "-d", job.destination, archive])
    steps.done("restore")
    _analyze(job)
    steps.done("analyze")
    return Told(steps.parts)


def native(job: Job) -> Told:
    """CREATE SUBSCRIPTION with copy_data between the schema's two sections."""
    steps = _Steps()
    _schema(job, "pre-data")
    steps.done("schema")
    run_sql(job.source, "CREATE PUBLICATION sync FOR ALL TABLES")
    run_sql(
        job.destination,
        f"CREATE SUBSCRIPTION sync CONNECTION '{job.source}' PUBLICATION sync WITH (binary = true)",
    )
    deadline = time.monotonic() + _SYNC_TIMEOUT_S
    try:
        while value(job.destination, "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel") != "True":
            if time.monotonic() > deadline:
                raise TimeoutError(f"not in step after {_SYNC_TIMEOUT_S:g} s")
            time.sleep(0.02)
        steps.done("copy")
    finally:
        run_sql(job.destination, "DROP SUBSCRIPTION sync")
        run_sql(job.source, "DROP PUBLICATION sync")
    _post_data(job)
    steps.done("indexes")
    _analyze(job)
    steps.done("analyze")
    return Told(steps.parts)


def pgcopydb(job: Job) -> Told:
    """pgcopydb clone, with the newer server's pg_dump first on its PATH: Debian's knows no server
    newer than itself."""
    environment = {**os.environ, "PATH": f"{job.tools}{os.pathsep}{os.environ['PATH']}"}
    command = ["pgcopydb", "clone", "--source", job.source, "--target", job.destination]
    command += ["--dir", str(job.folder / "pgcopydb"), "--table-jobs", str(JOBS), "--index-jobs", str(JOBS)]
    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pgcopydb ended with {done.returncode}: {done.stderr[-500:]}")
    return Told({"all": time.monotonic() - began})


def _schema(job: Job, section: str) -> None:
    archive = str(job.folder / f"{section}.dump")
    _run([job.tool("pg_dump"), "-Fc", f"--section={section}", "-f", archive, job.source])
    _run([job.tool("pg_restore"), "-1", "-d", job.destination, archive])


def _post_data(job: Job) -> None:
    archive = str(job.folder / "post-data.dump")
    _run([job.tool("pg_dump"), "-Fc", "--section=post-data", "-f", archive, job.source])
    _run([job.tool("pg_restore"), "-j", str(JOBS), "-d", job.destination, archive])


def _analyze(job: Job) -> None:
    _run([job.tool("vacuumdb"), "--analyze-only", "--quiet", "-j", str(JOBS), "-d", job.destination])


def _run(command: list[str]) -> None:
    """Raises CalledProcessError, with what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} ended with {done.returncode}: {done.stderr[-500:]}")
