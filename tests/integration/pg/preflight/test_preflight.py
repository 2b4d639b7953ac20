"""Servers that a migration needs: reachable, ready for logical replication, and without leftovers."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from services.shared.model import ErrorKind
from services.shared.pg.preflight.checks import Preflight, check_migration
from tests.support.preflight import ID, as_role, refusal, run_sql, traces
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.process import free_port


async def test_good_input_passes_and_changes_nothing(source_db: str, dest_db: str) -> None:
    run_sql(source_db, "CREATE TABLE t (id int PRIMARY KEY)")
    before = traces(source_db), traces(dest_db)
    found = await check_migration(ID, source_db, dest_db, follow=True)
    assert isinstance(found, Preflight)
    assert found.warnings == ()
    assert found.tools.major >= found.source.server_version_num // 10000
    assert (traces(source_db), traces(dest_db)) == before


async def test_unreachable_host_is_named(source_db: str, dest_db: str) -> None:
    nowhere = f"postgresql://u:secret@127.0.0.1:{free_port()}/db"
    error = await refusal(nowhere, dest_db)
    assert error.kind is ErrorKind.UNREACHABLE
    assert "source 127.0.0.1" in error.message
    assert "secret" not in error.message
    assert (await refusal(source_db, nowhere)).kind is ErrorKind.UNREACHABLE


async def test_wrong_password_is_an_authentication_error(
    source_server: PostgresServer, dest_db: str, source_db: str
) -> None:
    wrong = source_server.uri(urlsplit(source_db).path.lstrip("/"), password="not-the-one")
    error = await refusal(wrong, dest_db)
    assert error.kind is ErrorKind.AUTHENTICATION
    assert "not-the-one" not in str(error)


async def test_missing_database_is_not_found(source_server: PostgresServer, dest_db: str) -> None:
    assert (await refusal(source_server.uri("no_such"), dest_db)).kind is ErrorKind.AUTHENTICATION


async def test_wal_level_below_logical_is_refused_only_to_follow(dest_db: str) -> None:
    with PostgresServer(settings={"wal_level": "replica"}, fsync=False) as server:
        source = server.create_database("db")
        error = await refusal(source, dest_db)
        assert error.kind is ErrorKind.SOURCE_NOT_READY
        assert "wal_level" in error.message
        await check_migration(ID, source, dest_db, follow=False)


async def test_no_free_slot_and_no_free_sender_are_refused(dest_db: str) -> None:
    with PostgresServer(settings={"max_replication_slots": "1"}, fsync=False) as server:
        source = server.create_database("db")
        run_sql(source, "SELECT pg_create_physical_replication_slot('taken')")
        assert "replication slots" in (await refusal(source, dest_db)).message
    with PostgresServer(settings={"max_wal_senders": "0"}, fsync=False) as server:
        assert "WAL senders" in (await refusal(server.create_database("db"), dest_db)).message


async def test_missing_replication_right_is_refused(
    source_server: PostgresServer, source_db: str, dest_db: str, role: str
) -> None:
    error = await refusal(as_role(source_server, source_db, role), dest_db)
    assert error.kind is ErrorKind.PERMISSION
    assert "REPLICATION" in error.message


async def test_slot_there_or_active_is_refused(source_db: str, dest_db: str) -> None:
    run_sql(source_db, "SELECT pg_create_logical_replication_slot('pgmig_pre', 'pgoutput')")
    assert (await refusal(source_db, dest_db)).kind is ErrorKind.SLOT_EXISTS
    run_sql(source_db, "CREATE PUBLICATION other")
    with closing(psycopg.connect(source_db, autocommit=True, replication="database")) as walsender:
        walsender.pgconn.exec_(
            b"START_REPLICATION SLOT pgmig_pre LOGICAL 0/0 (proto_version '1', publication_names 'other')"
        )
        assert (await refusal(source_db, dest_db)).kind is ErrorKind.SLOT_ACTIVE


async def test_publication_or_origin_there_is_refused(source_db: str, dest_db: str) -> None:
    run_sql(source_db, "CREATE PUBLICATION pgmig_pre")
    error = await refusal(source_db, dest_db)
    assert error.kind is ErrorKind.ALREADY_EXISTS
    assert "publication" in error.message
    run_sql(source_db, "DROP PUBLICATION pgmig_pre")
    run_sql(dest_db, "SELECT pg_replication_origin_create('pgmig_pre')")
    error = await refusal(source_db, dest_db)
    run_sql(dest_db, "SELECT pg_replication_origin_drop('pgmig_pre')")
    assert error.kind is ErrorKind.ALREADY_EXISTS
    assert "origin" in error.message


async def test_destination_role_must_be_able_to_replicate(
    dest_server: PostgresServer, source_db: str, dest_db: str
) -> None:
    run_sql(dest_db, "DROP ROLE IF EXISTS weak", "CREATE ROLE weak LOGIN PASSWORD 'weak'")
    name = urlsplit(dest_db).path.lstrip("/")
    weak = dest_server.uri(name, "weak", "weak")
    try:
        assert "create schemas" in (await refusal(source_db, weak)).message
        run_sql(dest_db, sql.SQL("GRANT CREATE ON DATABASE {} TO weak").format(sql.Identifier(name)))
        assert "session_replication_role" in (await refusal(source_db, weak)).message
        run_sql(dest_db, "GRANT SET ON PARAMETER session_replication_role TO weak")
        passed = await check_migration(ID, source_db, weak, follow=True)
        assert any("pg_replication_origin_create" in warning for warning in passed.warnings)
        assert not any("GRANT TEMPORARY" in warning for warning in passed.warnings)
        run_sql(dest_db, sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name)))
        passed = await check_migration(ID, source_db, weak, follow=True)
        assert any("GRANT TEMPORARY" in warning for warning in passed.warnings)
    finally:
        run_sql(
            dest_db,
            "REVOKE SET ON PARAMETER session_replication_role FROM weak",
            sql.SQL("REVOKE ALL ON DATABASE {} FROM weak").format(sql.Identifier(name)),
            "DROP ROLE weak",
        )


async def test_older_destination_and_same_database_are_refused(source_db: str, dest_db: str) -> None:
    error = await refusal(dest_db, source_db)
    assert error.kind is ErrorKind.DESTINATION_NOT_READY
    assert "older" in error.message
    assert (await refusal(source_db, source_db)).kind is ErrorKind.INVALID_ARGUMENT


async def test_encoding_must_be_equal(dest_server: PostgresServer, source_db: str) -> None:
    dest_server.execute(
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    try:
        error = await refusal(source_db, dest_server.uri("latin"))
    finally:
        dest_server.drop_database("latin")
    assert "LATIN1" in error.message


async def test_pg_dump_older_than_the_source_is_named(
    source_db: str, dest_db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 13.4'\n")
    (tmp_path / "pg_dump").chmod(0o755)
    monkeypatch.setenv("PGMIG_PG_BINDIR", str(tmp_path))
    error = await refusal(source_db, dest_db)
    assert error.kind is ErrorKind.TOOL_MISSING
    assert "13 in" in error.message
