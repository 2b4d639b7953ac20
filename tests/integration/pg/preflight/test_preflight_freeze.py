"""What keeps a switchover from freezing the source, or goes round its settings, is told at the start."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import conninfo, sql

from services.shared.model import ErrorKind, MigrationId, PgmigError
from services.shared.pg.preflight.checks import check_migration
from tests.support.servers.postgres import PostgresServer

ID = MigrationId("m")


@pytest.fixture
def source(source_db: str) -> Iterator[str]:
    with psycopg.connect(source_db, autocommit=True) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY)")
    yield source_db


async def warnings(source: str, dest: str) -> str:
    return "\n".join((await check_migration(ID, source, dest, follow=True)).warnings)


def alter(uri: str, statement: str, **names: str) -> None:
    with psycopg.connect(uri, autocommit=True, options="-c default_transaction_read_only=off") as conn:
        quoted = {key: sql.Identifier(name) for key, name in names.items()}
        conn.execute(sql.SQL(statement).format(**quoted))


async def test_source_that_is_still_frozen_is_named_with_the_remedy(source: str, dest_db: str) -> None:
    database = str(conninfo.conninfo_to_dict(source)["dbname"])
    alter(source, "ALTER DATABASE {d} SET default_transaction_read_only = on", d=database)
    with pytest.raises(PgmigError) as caught:
        await check_migration(ID, source, dest_db, follow=True)
    assert caught.value.kind is ErrorKind.SOURCE_NOT_READY
    assert "unfreeze" in caught.value.hint
    await check_migration(ID, source, dest_db, follow=False)  # which writes nothing there


@pytest.mark.parametrize("where", ["", " IN DATABASE {d}"])
async def test_role_with_a_setting_of_its_own_is_named(source: str, dest_db: str, where: str) -> None:
    database = str(conninfo.conninfo_to_dict(source)["dbname"])
    role = f"app_{secrets.token_hex(4)}"
    assert role not in await warnings(source, dest_db)
    alter(source, "CREATE ROLE {r}", r=role)
    try:
        alter(source, f"ALTER ROLE {{r}}{where} SET default_transaction_read_only = off", r=role, d=database)
        assert role in await warnings(source, dest_db)
    finally:
        alter(source, "DROP ROLE {r}", r=role)


async def test_subscription_of_the_source_is_named(source: str, dest_db: str) -> None:
    name = f"feed_{secrets.token_hex(4)}"
    with psycopg.connect(source, autocommit=True) as conn:
        statement = "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION p WITH (connect = false)"
        conn.execute(sql.SQL(statement).format(sql.Identifier(name), sql.Literal(dest_db)))
        assert name not in await warnings(source, dest_db)  # it is not enabled
        conn.execute(
            sql.SQL("ALTER SUBSCRIPTION {} SET (slot_name = 'missing')").format(sql.Identifier(name))
        )
        conn.execute(sql.SQL("ALTER SUBSCRIPTION {} ENABLE").format(sql.Identifier(name)))
        try:
            assert name in await warnings(source, dest_db)
        finally:
            for action in ("DISABLE", "SET (slot_name = NONE)"):
                conn.execute(sql.SQL("ALTER SUBSCRIPTION {} " + action).format(sql.Identifier(name)))
            conn.execute(sql.SQL("DROP SUBSCRIPTION {}").format(sql.Identifier(name)))


async def test_role_that_may_not_end_sessions_gets_a_hint_to_grant_the_role(
    source: str, dest_db: str, source_server: PostgresServer
) -> None:
    database = str(conninfo.conninfo_to_dict(source)["dbname"])
    role, word = f"owner_{secrets.token_hex(4)}", secrets.token_hex(8)
    alter(source, f"CREATE ROLE {{r}} LOGIN REPLICATION PASSWORD '{word}'", r=role)
    try:
        alter(source, "ALTER DATABASE {d} OWNER TO {r}", d=database, r=role)
        alter(source, "ALTER TABLE item OWNER TO {r}", r=role)
        uri = source_server.uri(database, role, word)
        with psycopg.connect(dest_db, autocommit=True) as conn:
            conn.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        try:
            checked = await check_migration(ID, uri, dest_db, follow=True)
            assert f"GRANT pg_signal_backend TO {role}" in "\n".join(checked.warnings)
            alter(source, "GRANT pg_signal_backend TO {r}", r=role)
            assert "pg_signal_backend" not in await warnings(uri, dest_db)
        finally:
            alter(dest_db, "DROP ROLE {r}", r=role)
    finally:
        alter(source, "REASSIGN OWNED BY {r} TO postgres", r=role)
        alter(source, "DROP OWNED BY {r}", r=role)
        alter(source, "DROP ROLE {r}", r=role)
