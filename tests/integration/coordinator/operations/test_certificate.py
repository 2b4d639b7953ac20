"""The certificate of a switchover says what the servers say, and everybody gets the same bytes."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import jsonschema
import psutil
import psycopg
import pytest

from clients.cli.certificates.document import file_of, to_document
from clients.session import Session
from services.coordinator.operations.evidence import Evidence
from services.shared.model import (
    ErrorKind,
    FreezeMode,
    Lsn,
    MigrationOptions,
    NoKeyTables,
    OperationState,
    PgmigError,
    Phase,
    SwitchoverOptions,
)
from services.shared.model.view.canonical import digest
from services.shared.model.view.certificate import (
    Certificate,
    CheckName,
    CheckOutcome,
    StoredCertificate,
)
from services.shared.pg.bookkeeping.progress import applied_progress
from services.shared.pg.session.connection import connection
from tests.support.pipeline.in_process import DDL, PIPELINE, equal, pipeline, rows, run
from tests.support.servers.nats import NatsServer
from tests.support.services.services import Services, until_phase

SCHEMA = json.loads((Path(__file__).parents[4] / "docs/certificate.schema.json").read_text())

pytestmark = pytest.mark.xdist_group("certificate")
LOOSE = MigrationOptions(follow=True, no_key_tables=NoKeyTables.INSERT_ONLY)
IN_TIME = SwitchoverOptions(30_000)
HIGHEST = 2**63 - 1


@pytest.fixture
def source(source_db: str) -> str:
    """With a sequence whose value a double cannot hold, a table without a key, and an unlogged one."""
    with psycopg.connect(source_db) as conn:
        conn.execute('CREATE TABLE item (id int PRIMARY KEY); CREATE SEQUENCE "s""%"')
        conn.execute("CREATE TABLE log (line text); CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY)")
        conn.execute("INSERT INTO item SELECT generate_series(1, 7)")
        conn.execute('SELECT setval(\'"s""%%"\', %s, false)', [HIGHEST])
    return source_db


async def streaming(session: Session, source: str, dest: str) -> None:
    await session.start("m", source, dest, LOOSE)
    await until_phase(session, "m", Phase.STREAMING)
    with psycopg.connect(source) as conn:
        conn.execute("INSERT INTO item VALUES (8), (9)")


async def switched_over(session: Session, options: SwitchoverOptions = IN_TIME) -> StoredCertificate:
    begun = await session.begin_switchover("m", options)
    operation = [one async for one in session.follow_operation(begun.operation_id, reached=True)][-1]
    assert operation.state is OperationState.SUCCEEDED, operation.failure
    return await session.certificate("m")


def content(stored: StoredCertificate) -> Certificate:
    """It fits the published schema, and its digest is that of its bytes."""
    file = file_of(stored)
    document = to_document(file)
    jsonschema.validate(document, SCHEMA)
    assert stored.sha256 == digest(stored.document)
    return file.certificate


def made(certificate: Certificate) -> set[CheckName]:
    return {check.name for check in certificate.checks if check.outcome is CheckOutcome.PASSED}


def one(uri: str, query: str) -> Any:
    return rows(uri, query)[0][0]


async def test_certificate_says_what_the_servers_say(services: Services, source: str, dest_db: str) -> None:
    async with services.session() as session:
        await streaming(session, source, dest_db)
        stored = await switched_over(session)
        view = await session.get("m")
        found = content(stored)
        assert view.switchover is not None
        assert view.switchover.certificate_sha256 == stored.sha256
        assert any(stored.sha256 in event.text for event in view.events)
        for side, uri in ((found.source, source), (found.destination, dest_db)):
            assert side.system_identifier == one(
                uri, "SELECT system_identifier::text FROM pg_control_system()"
            )
            assert side.server_version == one(uri, "SHOW server_version")
            assert side.timeline == one(uri, "SELECT timeline_id FROM pg_control_checkpoint()")
            assert side.database == one(uri, "SELECT current_database()")
            assert side.encoding == one(uri, "SHOW server_encoding")
            oid = "SELECT oid::text FROM pg_database WHERE datname = current_database()"
            assert side.database_oid == one(uri, oid)
            assert side.flush_lsn <= side.insert_lsn
        (sequence,) = found.sequences
        assert (sequence.name, sequence.last_value, sequence.called) == ('s"%', str(HIGHEST), False)
        assert rows(dest_db, 'SELECT last_value, is_called FROM "s""%"') == [(HIGHEST, False)]
        where = found.positions
        assert where.copied_from < where.sentinel < where.second_sentinel <= where.destination_progress
        assert where.second_sentinel == view.switchover.sentinel_lsn
        assert where.second_sentinel <= found.source.insert_lsn
        assert (found.volume.tables, found.volume.rows_copied, found.volume.rows_applied) == (3, "7", "2")
        assert found.volume.since_start
        assert [table.name for table in found.not_followed.inserts_only] == ["log"]
        assert [table.name for table in found.not_followed.unlogged] == ["scratch"]
        freeze = found.freeze
        assert freeze.writes_blocked_at <= freeze.closed_at <= freeze.decided_at
        assert freeze.downtime_measured
        assert freeze.write_downtime_ms == view.switchover.write_downtime_ms
        without = {CheckName.NO_OPEN_TRANSACTION, CheckName.TRUNCATE, CheckName.UNPUBLISHED}
        assert made(found) == set(CheckName) - without
        assert found.comparisons == ()


async def test_certificate_of_a_switchover_that_blocks_nobody_claims_no_freeze(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await streaming(session, source, dest_db)
        found = content(await switched_over(session, SwitchoverOptions(30_000, freeze=FreezeMode.NONE)))
    assert found.freeze.mode is FreezeMode.NONE
    assert (found.freeze.writes_blocked_at, found.freeze.closed_at) == ("", "")
    assert CheckName.NO_OPEN_TRANSACTION in made(found)
    frozen = {CheckName.LOCKS_HELD, CheckName.DATABASE_CLOSED, CheckName.NO_SESSION_LEFT}
    assert not made(found) & (frozen | {CheckName.NO_PREPARED_TRANSACTION})


@pytest.mark.parametrize("point", ["decided", "finished", "issued"])
async def test_coordinator_killed_after_the_decision_leaves_it_to_the_next_one(
    services: Services, source: str, dest_db: str, point: str
) -> None:
    async with services.session() as session:
        await streaming(session, source, dest_db)
    services.restart_with(f"switchover.{point}=kill")
    async with services.session() as session:
        await session.resume("m", source, dest_db)
        await until_phase(session, "m", Phase.STREAMING)
        await session.begin_switchover("m", IN_TIME)
        services.await_death("coordinator")
    services.start("coordinator")
    async with services.session() as session:
        stored = await session.certificate("m")
        found = content(stored)
        assert found.freeze.downtime_measured is (point == "issued")
        assert (found.freeze.write_downtime_ms is None) is (point != "issued")
        assert not found.volume.since_start
        assert made(found) >= {CheckName.SEQUENCES_EQUAL, CheckName.LOCKS_HELD}
        await session.resume("m", source, dest_db)  # the operation ends when the destination is open
        (operation,) = await session.list_operations("m")
        async with aclosing(session.follow_operation(operation.operation_id, reached=True)) as states:
            operation = [state async for state in states][-1]
        assert operation.result is not None
        assert operation.result.certificate_sha256 == stored.sha256
    services.restart("coordinator")
    async with services.session() as session:
        assert await session.certificate("m") == stored
        assert await session.certificate("m", operation.operation_id) == stored
        await session.unfreeze("m", source, dest_db)
        assert await session.certificate("m") == stored
        with pytest.raises(PgmigError, match="no such certificate"):
            await session.certificate("m", "another")


async def until_stopped(pid: int) -> None:
    async with asyncio.timeout(60):
        while psutil.Process(pid).status() != psutil.STATUS_STOPPED:
            await asyncio.sleep(0.02)  # nobody tells that another process was stopped


async def test_coordinator_that_was_replaced_after_the_decision_issues_no_other_certificate(
    services: Services, nats_server: NatsServer, tmp_path: Path, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await streaming(session, source, dest_db)
    services.restart_with("switchover.finished=stop")
    uris = {"PGMIG_SOURCE_URI": source, "PGMIG_DEST_URI": dest_db}
    async with services.session() as session:
        await session.resume("m", source, dest_db)
        await until_phase(session, "m", Phase.STREAMING)
        operation = await session.begin_switchover("m", IN_TIME)
        await until_stopped(services.pid("coordinator"))
        with Services(nats_server, tmp_path / "second", workers=(), **uris) as second:
            async with second.session() as other:
                stored = await other.certificate("m")
                assert not content(stored).freeze.downtime_measured
                services.thaw("coordinator")
                async for _ in session.follow_operation(operation.operation_id, reached=True):
                    pass
                with pytest.raises(PgmigError) as caught:
                    await session.certificate("m")
                assert caught.value.kind is ErrorKind.FENCED
                assert await other.certificate("m") == stored


async def test_progress_of_the_destination_is_read_there_whatever_the_applier_says(
    source_db: str, dest_db: str, nats_server: NatsServer
) -> None:
    async with pipeline(source_db, dest_db, nats_server, DDL, "t") as found:
        await found.start_decoder()
        found.start_applier()
        await found.drain("earlier")
        await found.stop("applier")
        run(source_db, "INSERT INTO t VALUES (1)")
        sentinel = Lsn.parse(one(source_db, "SELECT pg_current_wal_insert_lsn()::text"))
        evidence = Evidence()
        async with connection(dest_db, "destination") as conn:
            with pytest.raises(PgmigError, match="the applier has confirmed"):
                evidence.progressed(await applied_progress(conn, PIPELINE), sentinel)
            found.start_applier()
            await found.drain("later")
            evidence.progressed(await applied_progress(conn, PIPELINE), sentinel)
        equal(found)
    assert evidence.progress >= sentinel
