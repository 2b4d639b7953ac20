"""Nobody goes round the freeze: whatever his rights, whenever he came, whatever he asks for."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress

import psycopg
import pytest
from psycopg import conninfo, sql

from services.shared.model import ErrorKind, PgmigError, TableId
from services.shared.pg.freeze.source import Freeze
from services.shared.pg.freeze.thaw import thaw
from services.shared.pg.session.connection import connection
from tests.support.servers.door import reopen
from tests.support.servers.postgres import PostgresServer

Opened = Callable[[str], Awaitable[Freeze]]
CLOSED = "not currently accepting connections"


def administrator(uri: str) -> psycopg.Connection:
    """A session that may write, whatever the freeze has left."""
    return psycopg.connect(reopen(uri), autocommit=True, options="-c default_transaction_read_only=off")


@pytest.fixture
def source(source_db: str) -> str:
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE a (id int); CREATE TABLE b (id int); CREATE SEQUENCE s")
    return source_db


@pytest.fixture
def owner(source: str, source_server: PostgresServer) -> Iterator[str]:
    """The URI of the database's owner: no superuser, and no pg_read_all_stats."""
    name, word = f"owner_{secrets.token_hex(4)}", secrets.token_hex(8)
    database = str(conninfo.conninfo_to_dict(source)["dbname"])
    role = sql.Identifier(name)
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute(
            sql.SQL("CREATE ROLE {} LOGIN REPLICATION PASSWORD {}; GRANT pg_signal_backend TO {}").format(
                role, sql.Literal(word), role
            )
        )
        conn.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(database), role))
        for table in ("a", "b"):
            conn.execute(sql.SQL("ALTER TABLE {} OWNER TO {}").format(sql.Identifier(table), role))
    yield source_server.uri(database, name, word)
    with administrator(source) as conn:
        conn.execute(sql.SQL("REASSIGN OWNED BY {} TO postgres").format(role))
        conn.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(role, role))


@pytest.fixture
def other_role(source: str, source_server: PostgresServer) -> Iterator[str]:
    """The URI of an ordinary role that overrides the read-only default, as it may."""
    name, word = f"app_{secrets.token_hex(4)}", secrets.token_hex(8)
    role = sql.Identifier(name)
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(word)))
        conn.execute(sql.SQL("ALTER ROLE {} SET default_transaction_read_only = off").format(role))
        conn.execute(sql.SQL("GRANT INSERT ON a TO {}").format(role))
    yield source_server.uri(str(conninfo.conninfo_to_dict(source)["dbname"]), name, word)
    with administrator(source) as conn:
        conn.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(role, role))


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    """Opens freezes, which are closed at the end."""
    freezes: list[Freeze] = []

    async def open_one(uri: str) -> Freeze:
        freezes.append(await Freeze.open(uri))
        return freezes[-1]

    yield open_one
    for freeze in freezes:
        await freeze.close()


@pytest.fixture(params=["superuser", "owner"])
async def freeze(request: pytest.FixtureRequest, source: str, owner: str, opened: Opened) -> Freeze:
    """By both kinds of roles that pgmig may have on the source."""
    return await opened(source if request.param == "superuser" else owner)


async def tables() -> list[TableId]:
    return [TableId("public", "a"), TableId("public", "b")]


async def frozen(freeze: Freeze) -> None:
    await freeze.lock(tables, time.monotonic() + 30)
    await freeze.end_writers(await freeze.forbid_writes())


async def shut(freeze: Freeze) -> int:
    return await freeze.shut(time.monotonic() + 30)


def refused(uri: str) -> bool:
    """Whether nobody can begin a session."""
    try:
        psycopg.connect(uri, connect_timeout=10).close()
    except psycopg.OperationalError as exc:
        return CLOSED in str(exc)
    return False


async def test_sessions_of_another_role_are_ended_at_the_freeze(other_role: str, freeze: Freeze) -> None:
    """Of them a role without pg_read_all_stats sees neither kind nor beginning."""
    with psycopg.connect(other_role) as pooled:
        pooled.execute("INSERT INTO a VALUES (1)")
        pooled.commit()
        await frozen(freeze)
        with pytest.raises(psycopg.OperationalError):
            pooled.execute("SELECT 1")


@pytest.mark.parametrize("temporary", [True, False])
async def test_session_with_a_slot_of_its_own_is_ended_too(
    source: str, opened: Opened, temporary: bool
) -> None:
    """A session stays the active one of a temporary slot that it has made."""
    freeze = await opened(source)
    with psycopg.connect(source, autocommit=True) as conn:
        made = "SELECT pg_create_logical_replication_slot(%s, 'pgoutput', %s)"
        conn.execute(made, [f"theirs_{secrets.token_hex(4)}", temporary])
        conn.execute("INSERT INTO a VALUES (1)")
        await frozen(freeze)
        await shut(freeze)
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
    await freeze.close()
    with administrator(source) as conn:
        conn.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            " WHERE database = current_database()"
        )


@pytest.mark.parametrize(
    "asks",
    [
        "BEGIN READ WRITE",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; BEGIN",
        "SET default_transaction_read_only = off; BEGIN",
        "BEGIN",  # the role's own setting
    ],
)
async def test_session_begun_amid_the_freeze_writes_nothing(
    source: str, other_role: str, freeze: Freeze, asks: str
) -> None:
    await frozen(freeze)
    with psycopg.connect(other_role, autocommit=True, application_name="pgmig source") as late:
        late.execute(asks)
        writing = asyncio.create_task(asyncio.to_thread(late.execute, "INSERT INTO a VALUES (1)"))
        await asyncio.wait({writing}, timeout=0.2)
        assert not writing.done()  # it waits for our locks
        assert await shut(freeze) >= 1
        with pytest.raises(psycopg.OperationalError):
            await writing
    await freeze.close()
    assert refused(other_role)
    with psycopg.connect(reopen(source)) as conn:
        assert conn.execute("SELECT count(*) FROM a").fetchone() == (0,)


async def test_nobody_comes_in_afterwards_not_even_a_superuser(
    source: str, owner: str, other_role: str, opened: Opened
) -> None:
    freeze = await opened(source)
    await frozen(freeze)
    await shut(freeze)
    await freeze.close()  # the locks are gone
    for uri in (source, owner, other_role):
        assert refused(uri)
    for uri in (source, owner):
        assert refused(conninfo.make_conninfo(uri, replication="database"))
    assert await thaw(source, freeze.before)
    with psycopg.connect(other_role) as conn:
        conn.execute("INSERT INTO a VALUES (1)")


async def test_superusers_that_keep_coming_are_all_ended(source: str, opened: Opened) -> None:
    """Sessions are begun all the time, and may be anywhere between login and first statement."""
    freeze = await opened(source)
    stop = asyncio.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            with suppress(psycopg.Error), psycopg.connect(source, autocommit=True) as conn:
                conn.execute("SET lock_timeout = '50ms'")
                conn.execute("BEGIN READ WRITE")
                conn.execute("INSERT INTO a VALUES (%s)", [number])
                conn.execute("COMMIT")

    writers = [asyncio.create_task(asyncio.to_thread(write)) for _ in range(4)]
    try:
        await freeze.lock(tables, time.monotonic() + 30)
        await freeze.forbid_writes()
        await shut(freeze)
        row = await (await freeze.session.execute("SELECT count(*) FROM public.a")).fetchone()
        assert row is not None
        await freeze.close()
        await asyncio.sleep(0.5)  # they go on trying, with nothing to wait for
    finally:
        stop.set()
        await asyncio.wait(writers)
    with psycopg.connect(reopen(source)) as conn:
        assert conn.execute("SELECT count(*) FROM a").fetchone() == row


async def test_walsender_that_runs_statements_is_ended(source: str, opened: Opened) -> None:
    """A connection for replication may write as well as any other."""
    freeze = await opened(source)
    await frozen(freeze)
    info = conninfo.make_conninfo(source, replication="database")
    with psycopg.connect(info, autocommit=True) as walsender:
        await shut(freeze)
        with pytest.raises(psycopg.OperationalError):
            walsender.pgconn.exec_(b"SELECT 1")
            walsender.execute("SELECT 1")
    await freeze.close()
    await thaw(source, freeze.before)


async def test_subscription_of_the_source_is_disabled_and_enabled_again(
    source: str, dest_db: str, source_server: PostgresServer, opened: Opened
) -> None:
    name = f"feed_{secrets.token_hex(4)}"
    with psycopg.connect(dest_db, autocommit=True) as upstream:
        upstream.execute("CREATE TABLE a (id int); CREATE PUBLICATION p FOR TABLE a")
        upstream.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
    statement = sql.SQL(
        "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION p WITH (create_slot = false, copy_data = false)"
    ).format(sql.Identifier(name), sql.Literal(dest_db))
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute(statement)
    try:
        freeze = await opened(source)
        assert freeze.before.subscriptions == (name,)
        await freeze.stop_subscriptions()
        await frozen(freeze)
        await shut(freeze)
        with psycopg.connect(dest_db) as upstream:
            upstream.execute("INSERT INTO a VALUES (1)")
        row = await (await freeze.session.execute("SELECT count(*) FROM public.a")).fetchone()
        assert row == (0,)
        await freeze.close()
        await thaw(source, freeze.before)
        with psycopg.connect(source, autocommit=True) as conn:
            async with asyncio.timeout(30):
                while conn.execute("SELECT count(*) FROM a").fetchone() == (0,):
                    await asyncio.sleep(0.1)  # an apply worker tells nobody when it has applied
    finally:
        with administrator(source) as conn:
            drop = sql.SQL(
                "ALTER SUBSCRIPTION {0} DISABLE; ALTER SUBSCRIPTION {0} SET (slot_name = NONE);"
                " DROP SUBSCRIPTION {0}"
            ).format(sql.Identifier(name))
            for one in drop.as_string(conn).split(";"):
                conn.execute(one)


async def test_prepared_transaction_holds_the_freeze_up_and_is_named(opened: Opened) -> None:
    with PostgresServer(settings={"max_prepared_transactions": "5"}, fsync=False) as server:
        uri = server.create_database("db")
        with psycopg.connect(uri, autocommit=True) as conn:
            conn.execute("CREATE TABLE a (id int); CREATE TABLE b (id int)")
            conn.execute("BEGIN; INSERT INTO a VALUES (1); PREPARE TRANSACTION 'order 17'")
            freeze = await opened(uri)
            try:
                with pytest.raises(PgmigError) as caught:
                    await freeze.lock(tables, time.monotonic() + 1.0)
                assert caught.value.kind is ErrorKind.TIMEOUT
                assert '"order 17"' in caught.value.message
                assert "COMMIT PREPARED" in caught.value.hint
                conn.execute("COMMIT PREPARED 'order 17'")
                # One that holds none of our locks would make a table that nobody has seen.
                conn.execute("BEGIN; CREATE TABLE c (id int); PREPARE TRANSACTION 'new table'")
                with pytest.raises(PgmigError, match="new table"):
                    await freeze.lock(tables, time.monotonic() + 1.0)
                conn.execute("ROLLBACK PREPARED 'new table'")
                await freeze.lock(tables, time.monotonic() + 30)
                conn.execute("BEGIN; CREATE TABLE c (id int); PREPARE TRANSACTION 'late'")
                with pytest.raises(PgmigError, match="late"):
                    await freeze.check_prepared()
            finally:
                await freeze.close()


async def test_table_made_while_the_locks_are_waited_for_is_locked_too(source: str, opened: Opened) -> None:
    freeze = await opened(source)
    known = await tables()

    async def listed() -> list[TableId]:
        found = list(known)
        if len(known) == 2:  # made right after it was listed
            known.append(TableId("public", "late"))
            with psycopg.connect(source) as conn:
                conn.execute("CREATE TABLE late (id int)")
        return found

    try:
        await freeze.lock(listed, time.monotonic() + 30)
        with (
            psycopg.connect(source, options="-c lock_timeout=100ms") as conn,
            pytest.raises(psycopg.errors.LockNotAvailable),
        ):
            conn.execute("INSERT INTO late VALUES (1)")
    finally:
        await freeze.close()


async def test_role_without_another_database_is_told_before_anything_is_blocked(
    source: str, owner: str, opened: Opened
) -> None:
    database = conninfo.conninfo_to_dict(source)["dbname"]
    with psycopg.connect(conninfo.make_conninfo(source, dbname="postgres"), autocommit=True) as conn:
        others = [
            name
            for (name,) in conn.execute(
                "SELECT datname FROM pg_database WHERE datallowconn AND datname <> %s", [database]
            )
        ]
        role = sql.Identifier(str(conninfo.conninfo_to_dict(owner)["user"]))
        for name in others:
            conn.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
        try:
            with pytest.raises(PgmigError) as caught:
                await Freeze.open(owner)
            assert caught.value.kind is ErrorKind.PERMISSION
            assert "GRANT CONNECT" in caught.value.hint
            conn.execute(sql.SQL("GRANT CONNECT ON DATABASE postgres TO {}").format(role))
            freeze = await opened(owner)
            assert freeze.before.door == "postgres"
            await freeze.close()
        finally:
            for name in others:
                conn.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO PUBLIC").format(sql.Identifier(name)))
            conn.execute(sql.SQL("REVOKE CONNECT ON DATABASE postgres FROM {}").format(role))


def setting(uri: str) -> list[tuple[object, ...]]:
    with psycopg.connect(uri) as conn:
        return conn.execute("SELECT setconfig FROM pg_db_role_setting WHERE setrole = 0").fetchall()


async def test_sessions_of_superusers_refuse_the_freeze_of_a_role_that_may_not_end_them(
    source: str, owner: str, other_role: str
) -> None:
    """While nobody is blocked yet, and before the first session is ended."""
    with psycopg.connect(other_role, autocommit=True) as app:
        with psycopg.connect(source, autocommit=True, application_name="monitor") as superuser:
            with pytest.raises(PgmigError) as caught:
                await Freeze.open(owner)
            assert caught.value.kind is ErrorKind.PERMISSION
            assert f"process {superuser.info.backend_pid} (monitor, role postgres)" in caught.value.message
            assert "superuser" in caught.value.hint
            superuser.execute("SELECT 1")
        app.execute("INSERT INTO a VALUES (1)")
        await (await Freeze.open(owner)).close()


async def test_sessions_of_other_roles_refuse_the_freeze_of_a_role_without_pg_signal_backend(
    source: str, owner: str, other_role: str
) -> None:
    role = sql.Identifier(str(conninfo.conninfo_to_dict(owner)["user"]))
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute(sql.SQL("REVOKE pg_signal_backend FROM {}").format(role))
    with psycopg.connect(other_role, autocommit=True) as app:
        with pytest.raises(PgmigError) as caught:
            await Freeze.open(owner)
        assert caught.value.kind is ErrorKind.PERMISSION
        assert f"process {app.info.backend_pid} " in caught.value.message
        assert "pg_signal_backend" in caught.value.hint
        app.execute("INSERT INTO a VALUES (1)")
    await (await Freeze.open(owner)).close()


async def test_role_that_does_not_own_the_database_is_refused_before_anything_is_blocked(
    source: str, owner: str, other_role: str
) -> None:
    """It could neither close the database nor make it read-only by default."""
    before = setting(source)
    with pytest.raises(PgmigError) as caught:
        await Freeze.open(other_role)
    assert caught.value.kind is ErrorKind.PERMISSION
    assert "own" in caught.value.hint
    assert setting(source) == before
    with psycopg.connect(other_role, autocommit=True) as app:
        app.execute("INSERT INTO a VALUES (1)")


@pytest.mark.parametrize("value", ["", "off", "false"])
async def test_proof_of_the_right_to_freeze_changes_nothing(source: str, opened: Opened, value: str) -> None:
    with psycopg.connect(source, autocommit=True) as conn:
        if value:
            name = sql.Identifier(conn.info.dbname)
            conn.execute(
                sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}").format(name, value)
            )
    before = setting(source)
    await opened(source)
    assert setting(source) == before


async def test_closed_database_is_named_with_the_remedy(source: str, opened: Opened) -> None:
    freeze = await opened(source)
    await frozen(freeze)
    await shut(freeze)
    await freeze.close()
    with pytest.raises(PgmigError) as caught:
        async with connection(source, "source"):
            pass
    assert caught.value.kind is ErrorKind.DATABASE_CLOSED
    assert "unfreeze" in caught.value.hint
    assert "ALLOW_CONNECTIONS true" in caught.value.hint
    await thaw(source, freeze.before)


async def test_process_that_does_not_end_stops_the_freeze_and_is_named(source: str, opened: Opened) -> None:
    """A server process that the kernel holds up is told to end, and does so when it runs again."""
    with psycopg.connect(source, autocommit=True) as stubborn:
        pid = stubborn.info.backend_pid
        freeze = await opened(source)
        await freeze.lock(tables, time.monotonic() + 30)
        os.kill(pid, signal.SIGSTOP)
        try:
            await freeze.end_writers(await freeze.forbid_writes())
            with pytest.raises(
                PgmigError, match=f"sessions on the source do not end: process {pid} "
            ) as caught:
                await freeze.shut(time.monotonic() + 0.5)
            assert caught.value.kind is ErrorKind.TIMEOUT
            await freeze.close()
            assert await thaw(source, freeze.before)
        finally:
            os.kill(pid, signal.SIGCONT)
        with pytest.raises(psycopg.OperationalError):
            stubborn.execute("INSERT INTO a VALUES (1)")
    with psycopg.connect(source, autocommit=True) as conn:
        conn.execute("INSERT INTO a VALUES (2)")
        assert conn.execute("SELECT id FROM a").fetchall() == [(2,)]


@pytest.mark.parametrize("victim", ["locker", "session", "side"])
async def test_loss_of_one_of_the_freezes_own_sessions_stops_it(
    victim: str, source: str, opened: Opened
) -> None:
    """Before the database is closed, the locks alone keep a session out that asks for read-write."""
    freeze = await opened(source)
    await frozen(freeze)
    lost = {"session": freeze.session, "side": freeze._side, "locker": freeze._locker}[victim]
    with administrator(source) as conn:
        conn.execute("SELECT pg_terminate_backend(%s, 10000)", [lost.info.backend_pid])
        if victim == "locker":
            conn.execute("INSERT INTO a VALUES (1)")  # nothing holds it up any more
    with pytest.raises(PgmigError):
        await shut(freeze)
        await freeze.check_prepared()
        await freeze.holds()
    await freeze.close()
    await thaw(source, freeze.before)
    with psycopg.connect(source) as conn:
        conn.execute("INSERT INTO a VALUES (2)")


@pytest.mark.parametrize("limit", [0, 1, 2])
async def test_connection_limit_refuses_the_freeze_and_leaves_the_source_open(
    limit: int, source: str, owner: str, opened: Opened
) -> None:
    name = sql.Identifier(str(conninfo.conninfo_to_dict(owner)["user"]))
    with administrator(source) as conn:
        conn.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(name, limit))
    with pytest.raises(PgmigError, match="too many connections for role") as caught:
        await opened(owner)
    assert caught.value.hint
    with administrator(source) as conn:
        conn.execute("INSERT INTO a VALUES (1)")
        conn.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT 3").format(name))
    freeze = await opened(owner)
    await frozen(freeze)
    await shut(freeze)
    await freeze.close()
    assert await thaw(owner, freeze.before), "three connections are enough"


async def test_connection_limit_of_the_database_is_what_it_was(source: str, opened: Opened) -> None:
    database = sql.Identifier(str(conninfo.conninfo_to_dict(source)["dbname"]))
    shown = "SELECT datconnlimit FROM pg_database WHERE datname = current_database()"
    with administrator(source) as conn:
        conn.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 7").format(database))
    freeze = await opened(source)
    await frozen(freeze)
    await shut(freeze)
    await freeze.close()
    await thaw(source, freeze.before)
    with psycopg.connect(source) as conn:
        assert conn.execute(shown).fetchone() == (7,)
