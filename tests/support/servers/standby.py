"""A real standby of a test server: made with pg_basebackup, streaming, and promoted on request."""

from __future__ import annotations

import time
from collections.abc import Mapping
from urllib.parse import quote

import psycopg
from psycopg import sql

from tests.support.servers.postgres import SUPERUSER, PostgresServer
from tests.support.servers.process import run

SLOT = "standby"
"""The physical slot of the first standby."""
_SYNC_SLOTS_SINCE = 17
_WAIT_S = 60.0
_POLL_S = 0.02


class StandbyServer(PostgresServer):
    """A standby of `primary`, which must run. From 17 on it synchronizes failover slots.

    slot: the physical slot that it streams from, created if necessary.
    """

    def __init__(
        self, primary: PostgresServer, *, slot: str = SLOT, settings: Mapping[str, str] | None = None
    ) -> None:
        ours = {"primary_slot_name": slot, "hot_standby_feedback": "on", "wal_receiver_status_interval": "1s"}
        login = f"{quote(SUPERUSER)}:{quote(primary.password, safe='')}"
        ours["primary_conninfo"] = (
            f"postgresql://{login}@127.0.0.1:{primary.port}/postgres?application_name={slot}"
        )
        if primary.install.major >= _SYNC_SLOTS_SINCE:
            ours["sync_replication_slots"] = "on"
        super().__init__(primary.install, settings={**ours, **(settings or {})}, fsync=False)
        self.password = primary.password
        self._primary = primary
        self._slot = slot

    def _initdb(self) -> None:
        with self._primary.connect() as conn:
            conn.execute(
                "SELECT pg_create_physical_replication_slot(%s, true) WHERE NOT EXISTS"
                " (SELECT FROM pg_replication_slots WHERE slot_name = %s)",
                [self._slot, self._slot],
            )
        flags = ["--no-sync", "--checkpoint=fast", "--wal-method=stream", f"--dbname={self._primary.uri()}"]
        data = self.root / "data"
        done = run(
            [self.bin_dir / "pg_basebackup", "-D", data, *flags],
            account=self._account,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            cwd=self.root,
        )
        if done.returncode:
            raise RuntimeError(f"pg_basebackup failed:\n{done.stdout}{done.stderr}")
        (data / "standby.signal").touch()

    def promote(self) -> None:
        """Make it a primary on a new timeline. The former primary is left as it is."""
        self.execute("SELECT pg_promote()")

    def caught_up(self) -> None:
        """Wait until it has replayed everything that the primary has flushed."""
        with self._primary.connect() as conn:
            row = conn.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
        assert row is not None
        self._until("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", row[0])

    def has_slot(self, slot: str) -> None:
        """Wait until a failover slot is synchronized and persistent here."""
        self._until(
            "SELECT EXISTS (SELECT FROM pg_replication_slots"
            " WHERE slot_name = %s AND synced AND NOT temporary)",
            slot,
        )

    def stop_receiving(self) -> None:
        """Receive nothing from the primary any more, so that it lags."""
        self._conninfo = self._settings["primary_conninfo"]
        self._settings["primary_conninfo"] = ""
        self.restart()

    def receive_again(self) -> None:
        """After `stop_receiving`."""
        self._settings["primary_conninfo"] = self._conninfo
        self.restart()

    def _until(self, query: str, value: str) -> None:
        deadline = time.monotonic() + _WAIT_S
        with self.connect() as conn:
            while time.monotonic() < deadline:
                row = conn.execute(query.encode(), [value]).fetchone()
                if row is not None and row[0]:
                    return
                time.sleep(_POLL_S)  # a standby has no event to wait for
        raise AssertionError(f"not true in {_WAIT_S} s: {query}")


def servers_uri(database: str, *servers: PostgresServer) -> str:
    """A connection URI that names several servers with the same superuser's password."""
    login = f"{SUPERUSER}:{quote(servers[0].password, safe='')}"
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    return f"postgresql://{login}@{hosts}/{quote(database, safe='')}?target_session_attrs=read-write"


def count(uri: str, table: str) -> int:
    with psycopg.connect(uri) as conn:
        row = conn.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
    assert row is not None
    return int(row[0])
