"""Everything that can be known to fail is looked for before anything is created.

`check_migration` connects to both databases, reads, and changes nothing: the only writes are
settings of its own sessions. Each refusal names what is wrong, where, and the remedy; what
merely deserves the operator's attention comes back as warnings.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from psycopg import AsyncConnection, conninfo

from services.shared.model import Endpoint, ErrorKind, LargeObjects, MigrationId, NoKeyTables, PgmigError
from services.shared.pg import preflight_apart, preflight_destination, preflight_source
from services.shared.pg.connection import connection, endpoint
from services.shared.pg.preflight_server import ServerFacts, read_server
from services.shared.pg.roles import check_roles
from services.shared.pg.tools import DumpTools, find_tools


@dataclass(frozen=True, slots=True)
class Preflight:
    """What a passed check found out. warnings: sentences for the timeline."""

    source: Endpoint
    destination: Endpoint
    tools: DumpTools
    warnings: tuple[str, ...] = ()


async def check_migration(
    migration: MigrationId,
    source_uri: str,
    destination_uri: str,
    *,
    follow: bool,
    no_key_tables: NoKeyTables = NoKeyTables.REFUSE,
    no_owner: bool = False,
    no_acl: bool = False,
    large_objects: LargeObjects = LargeObjects.COPY,
) -> Preflight:
    """Check both databases and the programs. Raises PgmigError for the first thing that is wrong."""
    async with (
        connection(source_uri, "source") as source,
        connection(destination_uri, "destination") as destination,
    ):
        facts = await read_server(source, "source"), await read_server(destination, "destination")
        _check_pair(*facts)
        tools = await find_tools(facts[0].major, facts[1].major)
        warnings = await preflight_source.check(
            source, migration, facts[0], follow=follow, no_key_tables=no_key_tables
        )
        warnings += await preflight_destination.check(destination, migration, facts[1], follow=follow)
        warnings += await preflight_destination.check_extensions(source, destination)
        warnings += await preflight_apart.check(source, facts[0], follow=follow, large_objects=large_objects)
        await check_roles(
            source,
            destination,
            facts[1].role,
            no_owner=no_owner,
            no_acl=no_acl,
            large_objects=large_objects is not LargeObjects.SKIP,
        )
        warnings += _differences(*facts)
    return Preflight(
        endpoint(source_uri, facts[0].version_num),
        endpoint(destination_uri, facts[1].version_num),
        tools,
        tuple(warnings),
    )


def passwordless_uri(where: Endpoint) -> str:
    """A connection string without a password: libpq's password file may know it."""
    given = {"host": where.host, "port": str(where.port), "dbname": where.dbname, "user": where.user}
    return conninfo.make_conninfo("", **{key: value for key, value in given.items() if value})


async def reachable(source_uri: str, destination_uri: str) -> None:
    """Whether both accept the login; raises what a connection attempt raises."""

    async def login(uri: str, side: str) -> AsyncConnection:
        async with connection(uri, side) as conn:
            return conn

    await asyncio.gather(login(source_uri, "source"), login(destination_uri, "destination"))


def _check_pair(source: ServerFacts, destination: ServerFacts) -> None:
    if source.identity == destination.identity:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"source and destination are the same database, {source.dbname}",
            "give the destination's own URI",
        )
    if destination.major < source.major:
        raise PgmigError(
            ErrorKind.DESTINATION_NOT_READY,
            f"the destination runs PostgreSQL {destination.major}, older than the source's {source.major}",
            f"migrate to PostgreSQL {source.major} or newer",
        )
    if destination.major < preflight_destination.OLDEST_MAJOR:
        raise PgmigError(
            ErrorKind.DESTINATION_NOT_READY,
            f"the destination runs PostgreSQL {destination.major}",
            f"migrate to PostgreSQL {preflight_destination.OLDEST_MAJOR} or newer",
        )
    if destination.encoding != source.encoding:
        raise PgmigError(
            ErrorKind.DESTINATION_NOT_READY,
            f"the destination database is encoded in {destination.encoding}, the source in {source.encoding}",
            f"create it anew: CREATE DATABASE ... ENCODING '{source.encoding}' TEMPLATE template0",
        )


def _differences(source: ServerFacts, destination: ServerFacts) -> list[str]:
    if (source.collate, source.ctype) == (destination.collate, destination.ctype):
        return []
    return [
        f"the databases sort text differently: {source.collate}/{source.ctype} on the source, "
        f"{destination.collate}/{destination.ctype} on the destination"
    ]
