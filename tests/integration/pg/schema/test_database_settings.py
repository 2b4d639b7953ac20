"""The database's own settings: set where they can be, told where not, and never a lock-out."""

from __future__ import annotations

from psycopg import sql

from services.shared.pg.schema.database_settings import read_database_settings, write_database_settings
from services.shared.pg.session.connection import connection
from tests.support.pipeline.in_process import rows, run

SETTINGS = (
    "SELECT c FROM pg_db_role_setting, unnest(setconfig) c"
    " WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1"
)


def alter(uri: str, *changes: str) -> None:
    name = uri.rpartition("/")[2]
    run(
        uri,
        *(
            sql.SQL("ALTER DATABASE {} SET {}").format(sql.Identifier(name), sql.SQL(change))  # type: ignore[arg-type]
            for change in changes
        ),
    )


async def moved(source: str, dest: str) -> tuple[str, ...]:
    async with connection(source, "source") as conn:
        wanted = await read_database_settings(conn)
    return await write_database_settings(dest, wanted, privileges=True)


async def test_settings_arrive_as_they_are_stored(source_db: str, dest_db: str) -> None:
    alter(
        source_db,
        "search_path = \"$user\", 'odd, name'",
        "work_mem = '5MB'",
        "a.b = ''",
        "temp_tablespaces = ''",
    )
    assert await moved(source_db, dest_db) == ()
    assert rows(dest_db, SETTINGS) == rows(source_db, SETTINGS)
    assert len(rows(dest_db, SETTINGS)) == 4


async def test_settings_that_affect_pgmig_or_block_sessions_are_reported_and_not_copied(
    source_db: str, dest_db: str
) -> None:
    alter(source_db, "default_transaction_read_only = on", "work_mem = '5MB'")
    async with connection(source_db, "source") as conn:  # whoever comes later would be kept out
        await conn.execute("SET default_transaction_read_only = off")
        name = sql.Identifier(conn.info.dbname)
        change = sql.SQL("ALTER DATABASE {} SET session_preload_libraries = 'no_such_library'")
        await conn.execute(change.format(name))
        wanted = await read_database_settings(conn)
        await conn.execute(sql.SQL("ALTER DATABASE {} RESET session_preload_libraries").format(name))
    told = await write_database_settings(dest_db, wanted, privileges=True)
    assert [sentence.partition(" ")[0] for sentence in told] == [
        "default_transaction_read_only",
        "session_preload_libraries",
    ]
    assert rows(dest_db, SETTINGS) == [("work_mem=5MB",)]
