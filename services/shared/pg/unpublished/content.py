"""Data that is in no publication: large objects, and the rows of extensions' configuration tables. One
operation synchronizes the destination with the source, and can be repeated any number of times."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from psycopg import AsyncConnection

from services.shared.model import TableId
from services.shared.pg.session.connection import connection
from services.shared.pg.session.event_triggers import silence
from services.shared.pg.unpublished.extension_tables import copy_extension_tables, list_extension_tables
from services.shared.pg.unpublished.large_objects import (
    Outcome,
    count_differences,
    count_large_objects,
    synchronise,
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """owners, privileges: whether those of large objects are copied, too."""

    large_objects: bool
    owners: bool
    privileges: bool


@dataclass(frozen=True, slots=True)
class Brought:
    """The result. tables: number of configuration tables. lacking: those that the destination's version of an
    extension does not have. large_objects: None if there are none."""

    tables: int
    rows: int
    lacking: tuple[TableId, ...]
    large_objects: Outcome | None


@dataclass(frozen=True, slots=True)
class Compared:
    """tables: number of configuration tables. large_objects: of the source. differing: those that `bring`
    would send or remove."""

    tables: int = 0
    large_objects: int = 0
    differing: int = 0


@asynccontextmanager
async def silent_destination(uri: str) -> AsyncIterator[AsyncConnection]:
    """A session on the destination in which neither triggers nor event triggers fire."""
    async with connection(uri, "destination") as conn:
        await silence(conn)
        yield conn


async def any_unpublished(
    source: AsyncConnection, destination: AsyncConnection, *, large_objects: bool
) -> bool:
    """Whether there is anything for `bring` to synchronize."""
    if await exist(source, large_objects=large_objects):
        return True
    return large_objects and bool(await count_large_objects(destination))


async def exist(conn: AsyncConnection, *, large_objects: bool) -> bool:
    """Whether a database has configuration tables of extensions, or large objects."""
    if await list_extension_tables(conn):
        return True
    return large_objects and bool(await count_large_objects(conn))


async def bring(source: AsyncConnection, destination: AsyncConnection, wanted: Wanted) -> Brought:
    """Synchronize this data of the destination with the source, as the session `source` sees it."""
    tables = await list_extension_tables(source)
    rows, lacking = await copy_extension_tables(source, destination, tables) if tables else (0, ())
    outcome = None
    if wanted.large_objects and await _any_large_objects(source, destination):
        outcome = await synchronise(source, destination, owners=wanted.owners, privileges=wanted.privileges)
    return Brought(len(tables), rows, lacking, outcome)


async def compare(source: AsyncConnection, destination: AsyncConnection, wanted: Wanted) -> Compared:
    """What `bring` would do now. Changes nothing. Configuration tables are counted only: `bring` replaces
    their rows in any case."""
    tables = len(await list_extension_tables(source))
    if not (wanted.large_objects and await _any_large_objects(source, destination)):
        return Compared(tables)
    found = await count_differences(source, destination)
    return Compared(tables, found.seen, found.written + found.removed)


async def _any_large_objects(source: AsyncConnection, destination: AsyncConnection) -> bool:
    return bool(await count_large_objects(source) or await count_large_objects(destination))
