"""pgcopydb, when it is installed: which version, where it can take part, and how it follows a source.

Version 0.10, Debian's, reads the output plugin wal2json alone, so it takes part in change capture where
a server with that plugin is installed, too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil

from services.shared.model import Lsn
from tests.bench.arena import run_sql
from tests.bench.followers import Base
from tests.support.servers.installs import PostgresInstall, newest, usable
from tests.support.servers.process import unprivileged_account

_PLUGINS = "*/lib/wal2json.so"
_SERVERS = Path("/usr/lib/postgresql")
SHOWN = 160
_END = Lsn((1 << 64) - 1)


def version() -> str:
    """As `pgcopydb --version` says, "" when it is not installed."""
    program = shutil.which("pgcopydb")
    if program is None:
        return ""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\S+)", done.stdout)
    return found[1] if found else "unknown"


def source_install() -> PostgresInstall | None:
    """The newest server with the plugin that is no newer than the destination."""
    account = unprivileged_account()
    found = [usable(plugin.parent.parent / "bin", account) for plugin in _SERVERS.glob(_PLUGINS)]
    return max((i for i in found if i and i.major <= newest().major), default=None)


def why_not_following() -> str:
    """Why pgcopydb takes no part in change capture: one sentence; "" when it does."""
    found = version()
    if not found:
        return "pgcopydb: not installed"
    if source_install() is None:
        return f"pgcopydb {found} does not take part: no server with wal2json, which it needs, is installed"
    return ""


class PgCopyDb(Base):
    """`pgcopydb follow` up to the end of the workload: its end is when it counts as done."""

    name = "pgcopydb"
    patience_s = 120.0

    def prepare(self) -> None:
        self.destination = self._arena.destination.create_database(self._database, self._template)
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="pgcopydb-")))
        self._run("stream", "setup", *self._options)

    @property
    def _options(self) -> list[str]:
        return ["--dir", str(self._folder / "work"), "--slot-name", self._slot, "--origin", self._slot]

    @property
    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PGCOPYDB_SOURCE_PGURI": self.source,
            "PGCOPYDB_TARGET_PGURI": self.destination,
            "TMPDIR": str(self._folder),
            "PGOPTIONS": "-c synchronous_commit=off",  # as the others commit
        }

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            ["pgcopydb", *arguments], env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"pgcopydb {arguments[0]} ended with {done.returncode}: {done.stderr[-500:]}")

    def warm(self) -> None:
        self._watch_destination()
        self._run("stream", "sentinel", "set", "apply", "--source", self.source)

    def start(self, until: Lsn | None = None) -> None:
        command = ["pgcopydb", "follow", *self._options, "--resume", "--not-consistent"]
        log = self._stack.enter_context((self._folder / "log").open("wb"))
        self._process = psutil.Popen(
            [*command, "--endpos", str(until)], env=self._environment, stdout=log, stderr=log
        )
        self._stack.callback(self._end)

    def progress(self) -> Lsn:
        ended = self._process.poll()
        if ended:
            raise RuntimeError(f"pgcopydb follow ended with {ended}: {self.complaint()}")
        return Lsn(0) if ended is None else _END

    def complaint(self) -> str:
        """Its first error; without one, what it said last."""
        lines = (self._folder / "log").read_text(errors="replace").strip().splitlines()
        said = next((line for line in lines if " ERROR " in line), lines[-1] if lines else "nothing")
        return said[:SHOWN]

    def _found(self) -> dict[int, str]:
        return {**super()._found(), **dict.fromkeys(map(_pid, self._tree()), "pgcopydb")}

    def _tree(self) -> list[psutil.Process]:
        with suppress(psutil.Error):
            return [self._process, *self._process.children(recursive=True)]
        return []

    def _end(self) -> None:
        for process in self._tree():
            with suppress(psutil.Error):
                process.kill()
        self._process.wait()

    def close(self) -> None:
        self._stack.close()
        run_sql(self.destination, f"SELECT pg_replication_origin_drop('{self._slot}')")
        self._drop()


def _pid(process: psutil.Process) -> int:
    return int(process.pid)
