"""A poison transaction under the coordinator: told in full, skipped alone, and never forgotten."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from clients.cli.certificates.document import file_of
from services.shared.model import ErrorKind, Failure, Lsn, MigrationOptions, MigrationView, PgmigError, Phase
from tests.support.pipeline.in_process import rows, run
from tests.support.servers.nats import NatsServer
from tests.support.services.services import Services, until, until_phase

FOLLOW = MigrationOptions(follow=True)


def failed(view: MigrationView) -> bool:
    return view.phase is Phase.FAILED


def failure_of(view: MigrationView) -> Failure:
    assert view.failure is not None
    return view.failure


async def refused(call: object) -> PgmigError:
    with pytest.raises(PgmigError) as caught:
        await call  # type: ignore[misc]
    return caught.value


async def test_only_the_transaction_that_failed_is_skipped_and_the_audit_record_is_kept(
    nats_server: NatsServer, tmp_path: Path, source_db: str, dest_db: str
) -> None:
    run(source_db, "CREATE TABLE item (id int PRIMARY KEY, note text)", "INSERT INTO item VALUES (0, 'old')")
    with Services(nats_server, tmp_path) as services:
        async with services.session() as session:
            await session.start("m", source_db, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            error = await refused(session.skip_transaction("m", Lsn(77), "too early", "op@host"))
            assert error.kind is ErrorKind.WRONG_PHASE
            run(dest_db, "ALTER TABLE item ADD CONSTRAINT no_poison CHECK (note <> 'poison')")
            run(source_db, "INSERT INTO item VALUES (1, 'before')")
            with psycopg.connect(source_db) as conn:
                conn.execute("INSERT INTO item VALUES (2, 'together with it')")
                conn.execute("INSERT INTO item VALUES (3, 'poison')")
                found = conn.execute("SELECT txid_current()").fetchone()
            assert found is not None
            run(source_db, "INSERT INTO item VALUES (4, 'behind')")

            view = await until(session, "m", failed)
            failure = failure_of(view)
            assert [failure.message in event.text for event in view.events].count(True) == 1
            assert failure.kind == "APPLY_FAILED"
            assert "no_poison" in failure.message
            assert "table public.item, row id=3" in failure.message
            assert failure.xid == found[0]
            assert f"--lsn {failure.lsn}" in failure.hint
            assert rows(dest_db, "SELECT id FROM item ORDER BY id") == [(0,), (1,)]

            other = Lsn(failure.lsn.value + 8)
            error = await refused(session.skip_transaction("m", other, "a wrong one", "op@host"))
            assert error.kind is ErrorKind.INVALID_ARGUMENT
            assert str(failure.lsn) in error.message
            error = await refused(session.skip_transaction("m", failure.lsn, " ", "op@host"))
            assert error.kind is ErrorKind.INVALID_ARGUMENT
            assert (await session.get("m")).phase is Phase.FAILED

            services.restart("coordinator")  # the failure is remembered with what may be skipped
            await session.skip_transaction("m", failure.lsn, "a row of the old app", "op@host")
            await session.resume("m", source_db, dest_db)
            await until_phase(session, "m", Phase.STREAMING)
            run(source_db, "INSERT INTO item VALUES (5, 'later')")
            view = await until(session, "m", lambda v: v.phase is Phase.STREAMING and caught_up(source_db, v))
            assert rows(dest_db, "SELECT id FROM item ORDER BY id") == [(0,), (1,), (4,), (5,)]
            services.restart("coordinator")
            view = await session.get("m")
            (audit,) = view.skipped
            assert (audit.lsn, audit.xid) == (failure.lsn, failure.xid)
            assert (audit.who, audit.reason, audit.failure) == (
                "op@host",
                "a row of the old app",
                failure.message,
            )
            assert audit.at > 0
            assert any("a row of the old app" in event.text for event in view.events)

            await session.resume("m", source_db, dest_db)
            await until_phase(session, "m", Phase.STREAMING)
            assert [step async for step in session.switchover("m", 60.0)]
            (skipped,) = file_of(await session.certificate("m")).certificate.skipped_transactions
            assert (skipped.lsn, skipped.xid) == (failure.lsn, str(failure.xid))
            assert (skipped.who, skipped.reason) == ("op@host", "a row of the old app")


def caught_up(source: str, view: MigrationView) -> bool:
    written = rows(source, "SELECT pg_current_wal_lsn()::text")[0][0]
    return view.positions.flushed_lsn >= Lsn.parse(str(written))


pytestmark = pytest.mark.timeout(120)
