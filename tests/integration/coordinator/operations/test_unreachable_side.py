"""Pause, resume, abort and cleanup while one of the two servers cannot be reached."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import psycopg
import pytest
from psycopg import conninfo

from clients.session import Session
from services.shared.model import ErrorKind, MigrationOptions, MigrationView, PgmigError, Phase
from tests.support.data.compare import compare_rows
from tests.support.preflight import traces
from tests.support.servers.proxy import Proxy, proxied
from tests.support.services.services import Services, until, until_phase

FOLLOW = MigrationOptions(follow=True)
SIDES = ("source", "destination")
OF_THE_SIDE = {
    "source": "replication slot pgmig_m and publication pgmig_m on the source: ",
    "destination": "replication origin pgmig_m",
}


@dataclass(frozen=True)
class Pair:
    """Both databases, as pgmig reaches them. direct: as the test does."""

    source: str
    destination: str
    direct: dict[str, str]
    proxies: dict[str, Proxy]

    def traces(self) -> list[list[tuple[object, ...]]]:
        """Without the table, which a migration copies."""
        found = [traces(self.direct[side]) for side in SIDES]
        return [[row for row in rows if not str(row[0]).startswith("item")] for rows in found]


@pytest.fixture
async def pair(source_db: str, dest_db: str) -> AsyncIterator[Pair]:
    """The source has a table with a hundred rows."""
    with psycopg.connect(source_db) as conn:
        conn.execute("CREATE TABLE item (id int PRIMARY KEY)")
        conn.execute("INSERT INTO item SELECT generate_series(1, 100)")
    direct = dict(zip(SIDES, (source_db, dest_db), strict=True))
    async with AsyncExitStack() as stack:
        proxies, uris = {}, []
        for side, uri in direct.items():
            known = conninfo.conninfo_to_dict(uri)
            proxies[side] = await stack.enter_async_context(proxied(f"{known['host']}:{known['port']}"))
            host, port = proxies[side].address.split(":")
            password = f":{known['password']}" if known.get("password") else ""
            uris.append(f"postgresql://{known['user']}{password}@{host}:{port}/{known['dbname']}")
        yield Pair(uris[0], uris[1], direct, proxies)


async def streams(session: Session, pair: Pair) -> None:
    await session.start("m", pair.source, pair.destination, FOLLOW)
    await until_phase(session, "m", Phase.STREAMING)


def check_left(left: tuple[str, ...], side: str) -> None:
    """Only what is on that side is left. On the destination that is also what keeps others from writing."""
    guard = ["the read-only default"] if side == "destination" and len(left) > 1 else []
    for line, start in zip(left, (*guard, OF_THE_SIDE[side]), strict=True):
        assert line.startswith(start)
        assert f"on the {side}: " in line


@pytest.mark.parametrize("side", SIDES)
async def test_abort_names_what_it_left_and_cleanup_removes_it_later(
    services: Services, pair: Pair, side: str
) -> None:
    before = pair.traces()
    async with services.session() as session:
        await streams(session, pair)
        pair.proxies[side].refuse()
        view = await session.abort("m")
        assert view.phase is Phase.ABORTED
        check_left(view.left, side)
        assert any(f"not removed: {view.left[0]}" == event.text for event in view.events)
        result = await session.cleanup("m")
        check_left(tuple(line for line in result.left if "slot" in line or "origin" in line), side)
        assert (await session.get("m")).left == result.left
        services.restart("coordinator")
    async with services.session() as session:
        await pair.proxies[side].accept_again()
        result = await session.cleanup("m", pair.source, pair.destination)
        assert result.left == ()
        assert pair.traces() == before
        with pytest.raises(PgmigError, match="there is no migration m"):
            await session.get("m")


@pytest.mark.parametrize("side", SIDES)
async def test_cleanup_of_a_paused_migration_ends_it_even_if_something_is_left(
    services: Services, pair: Pair, side: str
) -> None:
    before = pair.traces()
    async with services.session() as session:
        await streams(session, pair)
        await session.pause("m")
        pair.proxies[side].refuse()
        check_left((await session.cleanup("m")).left, side)
        view = await session.get("m")
        assert view.phase is Phase.ABORTED
        with pytest.raises(PgmigError) as caught:
            await session.resume("m")
        assert caught.value.kind is ErrorKind.WRONG_PHASE
        await pair.proxies[side].accept_again()
        assert (await session.cleanup("m")).left == ()
        assert pair.traces() == before


@pytest.mark.parametrize("side", SIDES)
async def test_cleanup_by_force_forgets_the_migration_and_says_what_is_left(
    services: Services, pair: Pair, side: str
) -> None:
    async with services.session() as session:
        await streams(session, pair)
        pair.proxies[side].refuse()
        result = await session.cleanup("m", force=True)
        assert any(line.startswith(OF_THE_SIDE[side]) for line in result.left)
        with pytest.raises(PgmigError, match="there is no migration m"):
            await session.get("m")


@pytest.mark.parametrize("side", SIDES)
async def test_pause_and_resume_lose_nothing(services: Services, pair: Pair, side: str) -> None:
    async with services.session() as session:
        await streams(session, pair)
        pair.proxies[side].refuse()
        assert (await session.pause("m")).phase is Phase.PAUSED
        with psycopg.connect(pair.direct["source"]) as conn:
            conn.execute("INSERT INTO item SELECT generate_series(101, 200)")
        await session.resume("m")
        await pair.proxies[side].accept_again()
        await until(session, "m", caught_up)
        assert compare_rows(pair.direct["source"], pair.direct["destination"]) == []


def caught_up(view: MigrationView) -> bool:
    return view.phase is Phase.STREAMING and view.rates.rows_applied >= 100


@pytest.mark.parametrize("side", SIDES)
async def test_replication_in_both_directions_ends_although_a_side_cannot_be_reached(
    services: Services, pair: Pair, side: str
) -> None:
    both = replace(FOLLOW, bidirectional=True)
    before = pair.traces()
    async with services.session() as session:
        await session.start("m", pair.source, pair.destination, both)
        await until(
            session,
            "m",
            lambda view: any(event.text == "both sides are open to writers" for event in view.events),
        )
        pair.proxies[side].refuse()
        view = await session.abort("m")
        assert view.phase is Phase.ABORTED
        assert view.left
        assert all(f"on the {side}: " in line for line in view.left)
        assert any("may have been used by the other side" in event.text for event in view.events)
        result = await session.cleanup("m")
        assert result.left
        assert all(f"on the {side}: " in line for line in result.left)
        await pair.proxies[side].accept_again()
        assert (await session.cleanup("m")).left == ()
    assert pair.traces() == before
