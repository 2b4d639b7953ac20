"""Applications that try in every possible way to write to a frozen source, and record what was committed."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg
from psycopg import conninfo, sql

from tests.support.servers.door import reopen
from tests.support.servers.postgres import PostgresServer

SUPERUSER = "superuser, explicit read-write"
STRANGER = "superuser, a new session each time, named like ours"
OWNER = "owner, session characteristics"
ROLE = "role with a setting of its own"
ROLE_IN_DATABASE = "role with a setting in this database"
POOLED = "role, one session for ever"
PREPARED = "role, prepared transactions"
WALSENDER = "owner, by a connection for replication"
SUBSCRIPTION = "subscription"
KINDS = (SUPERUSER, STRANGER, OWNER, ROLE, ROLE_IN_DATABASE, POOLED, PREPARED, WALSENDER, SUBSCRIPTION)

_WAIT_S = 30.0
_PAUSE_S = 0.01


def may_run(kind: str, *, as_owner: bool) -> bool:
    """The owner may neither terminate superusers' sessions nor disable their subscriptions. The switchover
    is refused while any exist."""
    return not (as_owner and kind in {SUPERUSER, STRANGER, SUBSCRIPTION})


@dataclass(frozen=True, slots=True)
class Place:
    """URIs of the source by role, and of the database that it subscribes to. roles: created for the test."""

    source: str
    owner: str
    role: str
    role_in_database: str
    upstream: str
    subscription: str
    roles: tuple[str, ...] = field(default=())


def administrator(uri: str) -> psycopg.Connection:
    return psycopg.connect(reopen(uri), autocommit=True, options="-c default_transaction_read_only=off")


def prepare_place(server: PostgresServer, source: str, upstream: str) -> Place:
    """A table, an owner, two roles that override the freeze's setting, and a subscription."""
    tag, word = secrets.token_hex(4), secrets.token_hex(8)
    owner, role, in_database = f"owner_{tag}", f"role_{tag}", f"within_{tag}"
    database = str(conninfo.conninfo_to_dict(source)["dbname"])
    with administrator(source) as conn:
        for name in (owner, role, in_database):
            conn.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(name), sql.Literal(word))
            )
        given = {
            "owner": sql.Identifier(owner),
            "role": sql.Identifier(role),
            "within": sql.Identifier(in_database),
            "database": sql.Identifier(database),
        }
        for statement in (
            "ALTER ROLE {owner} REPLICATION",
            "GRANT pg_signal_backend TO {owner}",
            "ALTER DATABASE {database} OWNER TO {owner}",
            "CREATE SCHEMA app AUTHORIZATION {owner}",
            "CREATE TABLE app.written (writer int, number int, PRIMARY KEY (writer, number))",
            "ALTER TABLE app.written OWNER TO {owner}",
            "GRANT USAGE ON SCHEMA app TO {role}, {within}",
            "GRANT INSERT ON app.written TO {role}, {within}",
            "ALTER ROLE {role} SET default_transaction_read_only = off",
            "ALTER ROLE {within} IN DATABASE {database} SET default_transaction_read_only = off",
        ):
            conn.execute(sql.SQL(statement).format(**given))
    with psycopg.connect(upstream, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA app")
        conn.execute("CREATE TABLE app.written (writer int, number int, PRIMARY KEY (writer, number))")
        conn.execute("CREATE PUBLICATION p FOR TABLE app.written")
    return Place(
        source,
        server.uri(database, owner, word),
        server.uri(database, role, word),
        server.uri(database, in_database, word),
        upstream,
        f"feed_{tag}",
        (owner, role, in_database),
    )


def remove_place(place: Place) -> None:
    """Remove the subscription and the roles. A database with a subscription cannot be dropped."""
    with administrator(place.source) as conn:
        name = sql.Identifier(place.subscription)
        if conn.execute("SELECT 1 FROM pg_subscription WHERE subname = %s", [place.subscription]).fetchone():
            for statement in (
                "ALTER SUBSCRIPTION {} DISABLE",
                "ALTER SUBSCRIPTION {} SET (slot_name = NONE)",
            ):
                conn.execute(sql.SQL(statement).format(name))
            conn.execute(sql.SQL("DROP SUBSCRIPTION {}").format(name))
        for (gid,) in conn.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"):
            conn.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)))
        for role in map(sql.Identifier, place.roles):
            conn.execute(sql.SQL("REASSIGN OWNED BY {} TO postgres").format(role))
            conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
            conn.execute(sql.SQL("DROP ROLE {}").format(role))


class Writer:
    """Writes numbered rows until it is stopped. acknowledged: those whose COMMIT on the source has
    returned."""

    def __init__(self, kind: str, key: int, place: Place) -> None:
        self.acknowledged: list[tuple[int, int]] = []
        self._commits = 0
        self._kind = kind
        self._key = key
        self._place = place
        self._number = 0
        self._tries = 0
        self._stopping = threading.Event()
        self._conn: psycopg.Connection | None = None
        self._thread = threading.Thread(target=self._run, name=f"writer-{key}", daemon=True)

    def start(self) -> None:
        if self._kind == SUBSCRIPTION:
            self._subscribe()
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(_WAIT_S)
        self._drop()

    def wait_for(self, commits: int) -> None:
        """Return when it has committed this many transactions."""
        self._until(lambda: self._commits >= commits, f"{commits} commits")

    def try_again(self, times: int) -> None:
        """Return after so many more attempts, successful or not."""
        before = self._tries
        self._until(lambda: self._tries >= before + times, f"{times} more attempts")

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _WAIT_S
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{self._kind}: not within {_WAIT_S:g} s: {what}")
            time.sleep(_PAUSE_S)  # threads of our own

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._number += 1
            try:
                self._write()
            except psycopg.Error:
                self._drop()
            else:
                self._commits += 1
                if self._kind != SUBSCRIPTION:
                    self.acknowledged.append((self._key, self._number))
            self._tries += 1
            time.sleep(_PAUSE_S)

    def _drop(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            with suppress(psycopg.Error):
                conn.close()

    def _uri(self) -> str:
        place = self._place
        return {
            OWNER: place.owner,
            WALSENDER: conninfo.make_conninfo(place.owner, replication="database"),
            ROLE: place.role,
            POOLED: place.role,
            PREPARED: place.role,
            ROLE_IN_DATABASE: place.role_in_database,
            SUBSCRIPTION: place.upstream,
        }.get(self._kind, place.source)

    def _session(self) -> psycopg.Connection:
        if self._conn is None:
            name = "pgmig source" if self._kind in {STRANGER, POOLED} else f"writer {self._key}"
            self._conn = psycopg.connect(
                self._uri(), autocommit=True, application_name=name, connect_timeout=10
            )
            if self._kind in {OWNER, POOLED}:
                self._conn.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")
            if self._kind == PREPARED:
                self._settle(self._conn)
        return self._conn

    def _write(self) -> None:
        conn = self._session()
        row = f"INSERT INTO app.written VALUES ({self._key}, {self._number})".encode()
        if self._kind == WALSENDER:
            result = conn.pgconn.exec_(row)
            if result.status != psycopg.pq.ExecStatus.COMMAND_OK:
                raise psycopg.OperationalError(result.error_message.decode(errors="replace"))
        elif self._kind in {SUPERUSER, STRANGER}:
            conn.execute("BEGIN READ WRITE")
            conn.execute(row)
            conn.execute("COMMIT")
        elif self._kind == PREPARED:
            conn.execute("BEGIN READ WRITE")
            conn.execute(row)
            conn.execute(f"PREPARE TRANSACTION '{self._gid}'")
            conn.execute(f"COMMIT PREPARED '{self._gid}'")
        else:
            conn.execute(row)
        if self._kind in {STRANGER, ROLE}:
            self._drop()

    @property
    def _gid(self) -> str:
        return f"{self._place.subscription} {self._key} {self._number}"

    def _settle(self, conn: psycopg.Connection) -> None:
        """Act as a transaction manager that has lost its session."""
        mine = f"{self._place.subscription} {self._key} %"
        for (gid,) in conn.execute("SELECT gid FROM pg_prepared_xacts WHERE gid LIKE %s", [mine]).fetchall():
            conn.execute(sql.SQL("COMMIT PREPARED {}").format(sql.Literal(gid)))
            self.acknowledged.append((self._key, int(gid.rpartition(" ")[2])))

    def _subscribe(self) -> None:
        """An apply worker writes what is committed upstream into the source. Its commits are compared as rows
        of the source, because upstream does not show them."""
        place = self._place
        with psycopg.connect(place.upstream, autocommit=True) as conn:
            name = place.subscription
            if conn.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", [name]).fetchone():
                return
            conn.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
        with administrator(place.source) as conn:
            conn.execute(
                sql.SQL(
                    "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION p"
                    " WITH (create_slot = false, copy_data = false)"
                ).format(sql.Identifier(place.subscription), sql.Literal(place.upstream))
            )
