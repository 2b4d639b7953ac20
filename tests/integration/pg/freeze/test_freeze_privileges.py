"""A role that may not freeze the source is refused before any writer is blocked."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import conninfo, sql

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.freeze.source import Freeze
from services.shared.pg.freeze.thaw import thaw
from tests.support.switchover.freezing import Opened, administrator, frozen, setting, shut


async def test_role_without_another_database_is_refused_before_anything_is_blocked(
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
