"""A real PostgreSQL server for tests and the demo: own data directory, own port, loopback only.

`postgres` runs as our direct child (no pg_ctl), as an unprivileged user when we are root, and gets
an immediate shutdown when we die. Client and server speak SCRAM with a random password.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import LiteralString, Self
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from tests.support.servers.folders import scratch_dir
from tests.support.servers.installs import PostgresInstall, newest
from tests.support.servers.process import free_port, run, spawn, tail, unprivileged_account

SUPERUSER = "postgres"

_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 60.0
_POLL_S = 0.02
_STRATEGY_SINCE = 15
_ITERATIONS_SINCE = 16
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_connections": "100",
    "max_wal_size": "2GB",
    "log_line_prefix": "%m [%p] %q%a %d: ",
    "timezone": "UTC",
}


class PostgresServer:
    """One server; usable as a context manager, and startable again after stop or kill9.

    settings: postgresql.conf parameters that override those of the tests (such as wal_level=logical).
    fsync: off is faster and survives kill9, but not the loss of the machine; the data may be kept in memory.
    """

    def __init__(
        self,
        install: PostgresInstall | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        fsync: bool = True,
    ) -> None:
        self.install = install or newest()
        self.password = secrets.token_urlsafe(12)
        self.port = free_port()
        self._account = unprivileged_account()
        self._fsync = fsync
        self._settings = {**_SETTINGS, "fsync": "on" if fsync else "off", **(settings or {})}
        self._root: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.destroy()

    @property
    def bin_dir(self) -> Path:
        """Where this server's pg_dump, pg_restore and psql are."""
        return self.install.bin_dir

    @property
    def pid(self) -> int:
        """Process id of the running postmaster."""
        return self._running().pid

    @property
    def root(self) -> Path:
        """The server's folder: `data` below it, the log and the socket in it."""
        if self._root is None:
            raise RuntimeError("the server was never started")
        return self._root

    @property
    def log_path(self) -> Path:
        return self.root / "postgres.log"

    def uri(self, dbname: str = "postgres", user: str = SUPERUSER, password: str | None = None) -> str:
        """A connection URI; without `password` that of the superuser."""
        word = self.password if password is None else password
        login = f"{quote(user, safe='')}:{quote(word, safe='')}"
        return f"postgresql://{login}@127.0.0.1:{self.port}/{quote(dbname, safe='')}"

    def start(self) -> None:
        """Start, with initdb before the first time, and return when connections are accepted."""
        if self._process is not None:
            raise RuntimeError("the server already runs")
        if self._root is None:
            self._root = scratch_dir("pgmig-pg-", self._account, in_memory=not self._fsync)
            self._initdb()
        options = {**self._settings, "port": str(self.port), "unix_socket_directories": str(self.root)}
        flags = [text for name, value in options.items() for text in ("-c", f"{name}={value}")]
        with self.log_path.open("ab") as log:
            self._process = spawn(
                [self.bin_dir / "postgres", "-D", self.root / "data", *flags],
                account=self._account,
                env=_environment(),
                cwd=self.root,
                log=log,
                death_signal=signal.SIGQUIT,
            )
        self._wait_ready(self._process)

    def stop(self, mode: str = "fast") -> None:
        """Shut down: "smart", "fast" or "immediate" (no checkpoint: the next start recovers).

        A fast shutdown waits for walsenders to send everything; if a stalled client delays it, it becomes an
        immediate one after 20 seconds. Nothing happens if it does not run.
        """
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(_STOP_SIGNALS[mode])
        for next_signal in (signal.SIGQUIT, signal.SIGKILL):
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.send_signal(next_signal)
        process.wait()

    def kill9(self) -> None:
        """SIGKILL to the postmaster and all its processes at once."""
        process, self._process = self._running(), None
        process.send_signal(signal.SIGSTOP)  # in the meantime it must neither fork nor clean up
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait()
        psutil.wait_procs(family, timeout=_STOP_TIMEOUT_S)

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def destroy(self) -> None:
        """Stop at once and remove the data directory."""
        self.stop("immediate")
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)
            self._root = None

    @contextmanager
    def connect(self, dbname: str = "postgres") -> Iterator[psycopg.Connection]:
        """An autocommit connection as superuser, closed at the end of the block."""
        connection = psycopg.connect(self.uri(dbname), autocommit=True, connect_timeout=5)
        try:
            yield connection
        finally:
            connection.close()

    def execute(self, statement: LiteralString | sql.Composed, dbname: str = "postgres") -> None:
        """One statement as superuser, outside a transaction."""
        with self.connect(dbname) as connection:
            connection.execute(statement)

    def create_database(self, name: str, template: str = "template0") -> str:
        """A new database, empty or a copy of `template` (which nobody may be connected to); its URI."""
        with self.connect() as connection:
            return self._create_database(connection, name, template)

    def _create_database(self, connection: psycopg.Connection, name: str, template: str) -> str:
        names = sql.Identifier(name), sql.Identifier(template)
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}" + self._strategy()).format(*names))
        return self.uri(name)

    def _strategy(self) -> LiteralString:
        """Copying files is faster than writing them to the WAL, if nothing waits for the disk."""
        fast = not self._fsync and self.install.major >= _STRATEGY_SINCE
        return " STRATEGY file_copy" if fast else ""

    def drop_database(self, name: str) -> None:
        """Drop it with its connections and replication slots; nothing happens if it does not exist."""
        with self.connect() as connection:
            _drop_with_slots(connection, name)

    @contextmanager
    def fresh_database(self, prefix: str = "db", template: str = "template0") -> Iterator[str]:
        """The URI of a new database, dropped at the end with what it left in the cluster: its slots, and
        replication origins created since."""
        name = f"{prefix}_{secrets.token_hex(4)}"
        with self.connect() as connection:
            before = _origins(connection)
            uri = self._create_database(connection, name, template)
        try:
            yield uri
        finally:
            with self.connect() as connection:
                _drop_with_slots(connection, name)
                for origin in _origins(connection) - before:
                    connection.execute("SELECT pg_replication_origin_drop(%s)", [origin])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process

    def _initdb(self) -> None:
        password_file = self.root / "password"
        password_file.write_text(self.password)
        password_file.chmod(0o600)
        if self._account:
            os.chown(password_file, self._account.uid, self._account.gid)
        flags = ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", "--no-sync"]
        flags += [f"--username={SUPERUSER}", f"--pwfile={password_file}"]
        if self.install.major >= _ITERATIONS_SINCE:
            flags += ["-c", "scram_iterations=1"]  # the default costs each connection 2 ms of CPU time
        data = self.root / "data"
        done = run(
            [self.bin_dir / "initdb", "-D", data, *flags],
            account=self._account,
            env=_environment(),
            cwd=self.root,
        )
        password_file.unlink()
        if done.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{done.stdout}{done.stderr}")

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                self._process = None
                raise RuntimeError(f"postgres ended with {process.returncode}:\n{tail(self.log_path)}")
            try:
                psycopg.connect(self.uri(), connect_timeout=5).close()
            except psycopg.OperationalError:
                time.sleep(0.02)  # a starting postmaster has no event to wait for
            else:
                return
        self.stop("immediate")
        raise RuntimeError(f"postgres not ready in {_READY_TIMEOUT_S} s:\n{tail(self.log_path)}")


def _environment() -> dict[str, str]:
    """The environment without the caller's PG* variables, which would change what the tools do."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C", "TZ": "UTC"}


def _origins(connection: psycopg.Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT roname FROM pg_replication_origin")}


def _drop_with_slots(connection: psycopg.Connection, name: str) -> None:
    for (slot,) in connection.execute(
        "SELECT slot_name FROM pg_replication_slots WHERE database = %s", [name]
    ).fetchall():
        _drop_slot(connection, slot)
    _drop_database(connection, name)


def _drop_database(connection: psycopg.Connection, name: str) -> None:
    """Drop it with its sessions, on every server version: WITH (FORCE) exists since 13."""
    statement = sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name))
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while True:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        try:
            connection.execute(statement)
        except psycopg.errors.ObjectInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)  # a session that ends tells nobody
        else:
            return


def _drop_slot(connection: psycopg.Connection, slot: str) -> None:
    """Drop the slot and end the session that holds it: a killed client's last request may be executed
    later."""
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while True:
        connection.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
            " WHERE slot_name = %s AND active_pid IS NOT NULL",
            [slot],
        )
        try:
            connection.execute(  # a temporary slot was dropped with its session
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
                [slot],
            )
        except (psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)  # a session that ends tells nobody
        else:
            return
