"""The contestants that replicate a source. Each has its own slot and its own database.

`prepare` creates slots and subscriptions before the source does anything. `start` begins the replication.
Each contestant then reads its slot at its own speed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol

import psutil
import psycopg

from services.shared.model import Lsn
from tests.bench.arena import Arena, drop_slot, run_sql, value
from tests.bench.processes import Tally, Usage
from tests.bench.workloads import TABLES
from tests.support.servers.nats import NatsServer

_SERVER_PROCESSES = (
    b"SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    b" AND backend_type NOT LIKE 'autovacuum%'"
)


class Follower(Protocol):
    """patience_s: how long it may take at most."""

    name: str
    source: str
    destination: str
    patience_s: float

    def prepare(self) -> None: ...

    def warm(self) -> None:
        """Do everything that a real migration has done before it begins to replicate."""

    def start(self, until: Lsn | None = None) -> None:
        """until: the end of the changes to replicate, if that is known."""

    def progress(self) -> Lsn:
        """How far the destination has committed."""

    def look(self) -> None:
        """Read the resources that the processes have used. They cannot be read after a process has ended."""

    def usage(self) -> dict[str, Usage]: ...

    def close(self) -> None:
        """End what runs, and remove slot, origin and database."""


MakeFollower = Callable[[Arena, str, str, str, str], Follower]


class Base:
    """tag: part of the names of everything that is made. publication: of what native follows."""

    name = ""
    patience_s = 300.0

    def __init__(self, arena: Arena, source: str, tag: str, template: str, publication: str) -> None:
        self.source = source
        self.destination = ""
        self._arena = arena
        self._database = f"{self.name}_{tag}"
        self._slot = f"{self.name}_{tag}"
        self._template = template
        self._publication = publication
        self._tally = Tally()
        self._stack = ExitStack()

    def _prepare(self) -> None:
        self.destination = self._arena.destination.create_database(self._database, self._template)
        run_sql(self.source, f"SELECT pg_create_logical_replication_slot('{self._slot}', 'pgoutput')")

    def _watch_destination(self) -> None:
        self._conn = psycopg.connect(self.destination, autocommit=True)
        self._stack.callback(self._conn.close)
        self._walsenders = psycopg.connect(self.source, autocommit=True)
        self._stack.callback(self._walsenders.close)
        run_sql(self.destination, "CHECKPOINT")

    def _found(self) -> dict[int, str]:
        sender = self._walsenders.execute(
            "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s AND active_pid IS NOT NULL",
            [self._slot],
        )
        found = {int(row[0]): "walsender" for row in sender}
        return found | {int(row[0]): "destination" for row in self._conn.execute(_SERVER_PROCESSES)}

    def look(self) -> None:
        self._tally.look(self._found())

    def usage(self) -> dict[str, Usage]:
        return self._tally.usage()

    def _origin_progress(self, name: str) -> Lsn:
        row = self._conn.execute(
            "SELECT coalesce(max(remote_lsn), '0/0')::text FROM pg_replication_origin_status"
            " WHERE external_id = %s",
            [name],
        ).fetchone()
        assert row is not None
        return Lsn.parse(row[0])

    def _drop(self) -> None:
        drop_slot(self._arena.source.uri(), self._slot)
        self._arena.destination.drop_database(self._database)


class Native(Base):
    """CREATE SUBSCRIPTION, with the server's defaults."""

    name = "native"

    def prepare(self) -> None:
        self._prepare()
        run_sql(
            self.destination,
            f"CREATE SUBSCRIPTION {self._slot} CONNECTION '{self.source}' PUBLICATION {self._publication}"
            f" WITH (enabled = false, copy_data = false, create_slot = false, slot_name = '{self._slot}')",
        )

    def warm(self) -> None:
        self._watch_destination()
        oid = value(self.destination, f"SELECT oid FROM pg_subscription WHERE subname = '{self._slot}'")
        self._origin = f"pg_{oid}"

    def start(self, until: Lsn | None = None) -> None:
        run_sql(self.destination, f"ALTER SUBSCRIPTION {self._slot} ENABLE")

    def progress(self) -> Lsn:
        return self._origin_progress(self._origin)

    def close(self) -> None:
        self._stack.close()
        run_sql(
            self.destination,
            f"ALTER SUBSCRIPTION {self._slot} DISABLE",
            f"ALTER SUBSCRIPTION {self._slot} SET (slot_name = NONE)",
            f"DROP SUBSCRIPTION {self._slot}",
        )
        self._drop()


class Pgmig(Base):
    """Decoder, nats-server and applier, each a process of its own."""

    name = "pgmig"

    def prepare(self) -> None:
        self._prepare()
        self._id = self._slot.removeprefix("pgmig_")
        run_sql(self.source, f"CREATE PUBLICATION {self._slot} FOR TABLE {', '.join(TABLES)}")
        self._start = value(
            self.source,
            f"SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{self._slot}'",
        )

    def warm(self) -> None:
        self._watch_destination()
        self._nats = self._stack.enter_context(NatsServer())
        given = {"id": self._id, "nats": self._nats.url, "start": self._start, "tables": " ".join(TABLES)}
        self._workers = {
            role: _worker(role, {**given, "uri": uri}, self._stack)
            for role, uri in (("decoder", self.source), ("applier", self.destination))
        }
        for worker in self._workers.values():
            assert worker.stdout.readline() == b"ready\n"
        self._tally.start(self._found())

    def start(self, until: Lsn | None = None) -> None:
        for worker in self._workers.values():
            worker.stdin.write(b"go\n")
            worker.stdin.flush()

    def progress(self) -> Lsn:
        for role, worker in self._workers.items():
            if worker.poll() is not None:
                raise RuntimeError(f"the {role} ended with {worker.returncode}")
        return self._origin_progress(f"pgmig_{self._id}")

    def _found(self) -> dict[int, str]:
        workers = {worker.pid: role for role, worker in self._workers.items()}
        return {**super()._found(), **workers, self._nats.pid: "nats-server"}

    def close(self) -> None:
        self._stack.close()
        run_sql(self.destination, f"SELECT pg_replication_origin_drop('pgmig_{self._id}')")
        self._drop()


def _worker(role: str, given: dict[str, str], stack: ExitStack) -> psutil.Popen:
    command = [sys.executable, "-m", "tests.bench.worker", role, json.dumps(given)]
    worker = psutil.Popen(command, stdin=-1, stdout=-1)
    stack.callback(worker.wait)
    stack.callback(worker.terminate)
    return worker
