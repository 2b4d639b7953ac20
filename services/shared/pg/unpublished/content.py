"""What belongs to the data and is in no publication: large objects, and the rows of extensions'
configuration tables. One operation makes the destination's the source's, as often as it is done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from psycopg import AsyncConnection

from services.shared.model import TableId
from services.shared.pg.session.connection import connection
from services.shared.pg.session.event_triggers import silence
from services.shared.pg.unpublished.extension_tables import copy_extension_tables, list_extension_tables
from services.shared.pg.unpublished.large_objects import Outcome, count_large_objects, synchronise


@dataclass(frozen=True, slots=True)
class Wanted:
    """owners, privileges: of large objects, whether these are kept too."""

    large_objects: bool
    owners: bool
    privileges: bool


@dataclass(frozen=True, slots=True)
class Brought:
    """What was done. tables: how many configuration tables there are. lacking: those that the
    destination's version of an extension has not got. large_objects: None when there are none."""

    tables: int
    rows: int
    lacking: tuple[TableId, ...]
    large_objects: Outcome | None


@asynccontextmanager
async def silent_destination(uri: str) -> AsyncIterator[AsyncConnection]:
    """A session on the destination in which neither triggers nor event triggers act."""
    async with connection(uri, "destination") as conn:
        await silence(conn)
        yield conn


async def any_unfollowed(
    source: AsyncConnection, destination: AsyncConnection, *, large_objects: bool
) -> bool:
    """Whether `bring` has anything to look at."""
    if await list_extension_tables(source):
        return True
    return large_objects and await _any_large_objects(source, destination)


async def bring(source: AsyncConnection, destination: AsyncConnection, wanted: Wanted) -> Brought:
    """Make the destination's what `source` shows of the source's."""
    tables = await list_extension_tables(source)
    rows, lacking = await copy_extension_tables(source, destination, tables) if tables else (0, ())
    outcome = None
    if wanted.large_objects and await _any_large_objects(source, destination):
        outcome = await synchronise(source, destination, owners=wanted.owners, privileges=wanted.privileges)
    return Brought(len(tables), rows, lacking, outcome)


async def _any_large_objects(source: AsyncConnection, destination: AsyncConnection) -> bool:
    return bool(await count_large_objects(source) or await count_large_objects(destination))
