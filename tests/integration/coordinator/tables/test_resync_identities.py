"""Resync of tables that are not published for UPDATE and DELETE: the source's statements go on working."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from clients.session import Session
from services.shared.model import ErrorKind, MigrationOptions, NoKeyTables, PgmigError, Phase, TableId
from services.shared.pg.catalog.replica_identity import never_identified
from services.shared.pg.session.connection import connection
from tests.integration.coordinator.tables.test_resync import resync, same, switch_over
from tests.support.pipeline.in_process import rows, run
from tests.support.servers.postgres import PostgresServer
from tests.support.services.services import Services, until_phase

PUBLISHED = "SELECT tablename FROM pg_publication_tables ORDER BY 1"
KEYED = "CREATE TABLE keyed (id int PRIMARY KEY)"
STORED_KEY = "(a int NOT NULL, b text, k int GENERATED ALWAYS AS (a * 10) STORED PRIMARY KEY)"


def table(name: str) -> TableId:
    return TableId("public", name)


@pytest.fixture
def new_source(dest_server: PostgresServer) -> Iterator[str]:
    """A source that publishes generated columns: PostgreSQL 18."""
    with dest_server.fresh_database("source") as uri:
        yield uri


async def streaming(session: Session, source: str, dest: str, choice: NoKeyTables) -> None:
    await session.start("m", source, dest, MigrationOptions(follow=True, no_key_tables=choice))
    await until_phase(session, "m", Phase.STREAMING)


async def test_partitions_of_a_copy_only_root_are_copied_again_and_stay_unpublished(
    services: Services, source_db: str, dest_db: str
) -> None:
    run(
        source_db,
        KEYED,
        "CREATE TABLE root (a int, b text) PARTITION BY RANGE (a)",
        "CREATE TABLE low PARTITION OF root FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE high PARTITION OF root FOR VALUES FROM (100) TO (200)",
        "INSERT INTO root SELECT n, 'copied' FROM generate_series(0, 199) AS n",
    )
    change = "UPDATE root SET b = 'changed' WHERE a % 2 = 0", "DELETE FROM root WHERE a % 7 = 0"
    async with services.session() as session:
        await streaming(session, source_db, dest_db, NoKeyTables.COPY_ONLY)
        assert rows(source_db, PUBLISHED) == [("keyed",)]
        run(source_db, *change)
        await resync(session, table("low"))
        same(source_db, dest_db, "low")
        assert rows(dest_db, "SELECT DISTINCT b FROM high") == [("copied",)], "not asked for"
        assert rows(source_db, PUBLISHED) == [("keyed",)]
        run(source_db, "UPDATE root SET b = 'again'", "DELETE FROM root WHERE a % 5 = 0")
        await resync(session, table("low"), table("high"))
        assert rows(source_db, PUBLISHED) == [("keyed",)]
        run(source_db, "INSERT INTO keyed VALUES (1)")
        await switch_over(session)
    same(source_db, dest_db, "root", "keyed")


async def test_a_table_made_since_whose_key_the_publication_does_not_send_is_refused(
    services: Services, new_source: str, dest_db: str
) -> None:
    run(new_source, KEYED)
    async with services.session() as session:
        await streaming(session, new_source, dest_db, NoKeyTables.REFUSE)
        for uri in (new_source, dest_db):
            run(uri, f"CREATE TABLE added {STORED_KEY}")
        with pytest.raises(PgmigError, match=r"public\.added") as caught:
            await session.resync_tables("m", (table("added"),))
        assert caught.value.kind is ErrorKind.NO_REPLICA_IDENTITY
        assert rows(new_source, PUBLISHED) == [("keyed",)]
        run(
            new_source,
            "INSERT INTO added (a) SELECT generate_series(1, 9)",
            "UPDATE added SET a = a + 100, b = 'changed' WHERE a > 5",
            "DELETE FROM added WHERE a < 3",
        )


async def test_a_table_made_since_with_a_key_that_is_sent_is_replicated(
    services: Services, new_source: str, dest_db: str
) -> None:
    """The publication sends stored generated columns, since a table of the beginning needs them."""
    run(new_source, f"CREATE TABLE first {STORED_KEY}")
    async with services.session() as session:
        await streaming(session, new_source, dest_db, NoKeyTables.REFUSE)
        for uri in (new_source, dest_db):
            run(uri, f"CREATE TABLE added {STORED_KEY}")
        run(new_source, "INSERT INTO added (a) SELECT generate_series(1, 9)")
        await resync(session, table("first"), table("added"))
        assert rows(new_source, PUBLISHED) == [("added",), ("first",)]
        for name in ("first", "added"):
            run(
                new_source,
                f"INSERT INTO {name} (a) SELECT generate_series(11, 19)",
                f"UPDATE {name} SET a = a + 100, b = 'changed' WHERE a > 5",
                f"DELETE FROM {name} WHERE a < 3",
            )
        await switch_over(session)
    same(new_source, dest_db, "first", "added")


IDENTITIES = [
    "CREATE TABLE plain (a int PRIMARY KEY, k int GENERATED ALWAYS AS (a * 10) STORED)",
    f"CREATE TABLE stored {STORED_KEY}",
    "CREATE TABLE whole (a int, k int GENERATED ALWAYS AS (a * 10) STORED)",
    "ALTER TABLE whole REPLICA IDENTITY FULL",
    "CREATE TABLE keyless (a int)",
]
VIRTUAL = [
    "CREATE TABLE virtual (a int, k int GENERATED ALWAYS AS (a * 10) VIRTUAL)",
    "ALTER TABLE virtual REPLICA IDENTITY FULL",
    "CREATE TABLE aside (a int PRIMARY KEY, k int GENERATED ALWAYS AS (a * 10) VIRTUAL)",
]
NAMES = ("aside", "keyless", "plain", "stored", "virtual", "whole")


async def lacking(uri: str, *, sends_generated: bool) -> list[str]:
    async with connection(uri, "source") as conn:
        wanted = [table(name) for name in NAMES]
        return [one.name for one in await never_identified(conn, wanted, sends_generated=sends_generated)]


async def test_which_identities_a_publication_can_serve_depends_on_what_it_sends(new_source: str) -> None:
    run(new_source, *IDENTITIES, *VIRTUAL)
    assert await lacking(new_source, sends_generated=False) == ["keyless", "stored", "virtual", "whole"]
    assert await lacking(new_source, sends_generated=True) == ["keyless", "virtual"]


async def test_the_answer_is_what_the_source_does(new_source: str) -> None:
    """An UPDATE of a published table fails exactly for the tables that are named."""
    run(new_source, *IDENTITIES, *VIRTUAL)
    for sends in (False, True):
        how = "stored" if sends else "none"
        run(
            new_source,
            f"CREATE PUBLICATION p FOR TABLE {', '.join(NAMES)} WITH (publish_generated_columns = {how})",
        )
        named = await lacking(new_source, sends_generated=sends)
        refused = [name for name in NAMES if not updates(new_source, name)]
        assert refused == named
        run(new_source, "DROP PUBLICATION p")


def updates(uri: str, name: str) -> bool:
    try:
        run(uri, f"UPDATE {name} SET a = a")
    except (psycopg.errors.ObjectNotInPrerequisiteState, psycopg.errors.InvalidColumnReference):
        return False
    return True


async def test_before_18_a_table_made_since_with_all_of_its_old_rows_logged_is_replicated(
    services: Services, source_db: str, dest_db: str
) -> None:
    """The other columns identify a row, although the generated one is not sent."""
    run(source_db, KEYED)
    async with services.session() as session:
        await streaming(session, source_db, dest_db, NoKeyTables.REFUSE)
        for uri in (source_db, dest_db):
            run(uri, *IDENTITIES)
        assert await lacking(source_db, sends_generated=False) == ["keyless", "stored"]
        await resync(session, table("whole"))
        run(source_db, "DROP TABLE stored, keyless, plain")
        run(dest_db, "DROP TABLE stored, keyless, plain")
        run(
            source_db,
            "INSERT INTO whole SELECT generate_series(1, 9)",
            "UPDATE whole SET a = a + 100 WHERE a > 5",
            "DELETE FROM whole WHERE a < 3",
        )
        await switch_over(session)
    same(source_db, dest_db, "whole")


pytestmark = pytest.mark.timeout(180)
