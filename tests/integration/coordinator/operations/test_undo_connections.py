"""An interrupted switchover is undone although a server has moved or is down, or credentials are missing."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from services.shared.model import ErrorKind, EventLevel, PgmigError, Phase
from tests.support.servers.nats import NatsServer
from tests.support.servers.proxy import proxied
from tests.support.services.services import Services, until, until_phase
from tests.support.switchover.old_source import FOLLOW, insert, killed_in_the_freeze, password_file, place


async def interrupted_before_the_source_moved(services: Services, source: str, dest: str) -> str:
    """The source's URI that the migration knows, at an address that no server has any more."""
    async with proxied(place(source)) as proxy, services.session() as session:
        moved = source.replace(place(source), proxy.address)
        await session.start("m", moved, dest, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        with psycopg.connect(source) as held:
            held.execute("INSERT INTO item VALUES (1)")
            await killed_in_the_freeze(services, session)
            await proxy.close()
        services.start("coordinator")
        return moved


async def test_switchover_is_undone_at_the_address_that_the_source_has_moved_to(
    services: Services, source: str, dest_db: str
) -> None:
    moved = await interrupted_before_the_source_moved(services, source, dest_db)
    async with services.session() as session:
        assert (await session.get("m")).phase is Phase.SWITCHOVER
        await session.resume("m", moved, dest_db)  # known, but it leads nowhere any more
        await session.resume("m", source, dest_db)
        await until(session, "m", lambda view: view.phase is not Phase.SWITCHOVER)
        insert(source, 2)
        await until_phase(session, "m", Phase.STREAMING)


async def test_switchover_that_cannot_be_undone_is_cleaned_up_by_force(
    services: Services, source: str, dest_db: str
) -> None:
    moved = await interrupted_before_the_source_moved(services, source, dest_db)
    async with services.session() as session:
        # Cleanup can stop only workers that have come back to the restarted coordinator.
        await until(session, "m", lambda view: {"decoder", "applier"} <= {one.role for one in view.workers})
        with pytest.raises(PgmigError) as caught:
            await session.cleanup("m", moved, dest_db)
        assert caught.value.kind is ErrorKind.WRONG_PHASE
        done = await session.cleanup("m", moved, dest_db, force=True)
        assert any("source" in line for line in done.left)
        assert any("bookkeeping" in line for line in done.removed), done


async def test_source_is_opened_again_while_the_destination_is_down(
    nats_server: NatsServer, source: str, dest_db: str, tmp_path: Path
) -> None:
    """The password file opens the source: whether it opens the destination does not matter for that."""
    async with proxied(place(dest_db)) as proxy:
        moved = dest_db.replace(place(dest_db), proxy.address)
        passwords = password_file(tmp_path / "passwords", source, moved)
        with Services(nats_server, tmp_path, PGPASSFILE=passwords) as services:
            async with services.session() as session:
                await session.start("m", source, moved, FOLLOW)
                await until_phase(session, "m", Phase.STREAMING)
                with psycopg.connect(source) as held:
                    held.execute("INSERT INTO item VALUES (1)")
                    await killed_in_the_freeze(services, session)
                await proxy.close()
                services.start("coordinator")
            async with services.session() as session:
                view = await until(session, "m", lambda view: view.phase is not Phase.SWITCHOVER)
                insert(source, 2)
                view = await until(session, "m", lambda view: view.needs_credentials)
                told = [
                    e.text for e in view.events if e.level == EventLevel.WARNING and "credentials" in e.text
                ]
                assert "cannot connect to destination" in told[-1]
                assert "source" not in told[-1]


async def test_the_request_for_credentials_says_that_the_source_is_frozen(
    services: Services, source: str, dest_db: str
) -> None:
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        with psycopg.connect(source) as held:
            held.execute("INSERT INTO item VALUES (1)")
            await killed_in_the_freeze(services, session)
        services.start("coordinator")
    async with services.session() as session:
        view = await until(session, "m", lambda view: view.needs_credentials)
        told = [e.text for e in view.events if "credentials" in e.text]
        assert "`pgmig-cli resume --id m --source-uri ... --dest-uri ...`" in told[-1]
        assert "source is closed to writers until then" in told[-1]
        await session.resume("m", source)
        await until(session, "m", lambda view: view.phase is not Phase.SWITCHOVER)
        insert(source, 2)
