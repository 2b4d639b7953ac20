"""Detect everything that would make a migration fail, before anything is created.

`check_migration` connects to both databases, reads, and changes nothing except settings of its own sessions.
Each refusal names the problem, its place and the remedy. Conditions that only need the operator's attention
are returned as warnings.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from psycopg import AsyncConnection

from services.shared.model import (
    DatabaseIdentity,
    Endpoint,
    ErrorKind,
    LargeObjects,
    MigrationId,
    MigrationOptions,
    MigrationPlan,
    NoKeyTables,
    PgmigError,
    check_options,
)
from services.shared.pg.catalog.selected import choose, default_search_path
from services.shared.pg.catalog.server import ServerFacts, read_server
from services.shared.pg.preflight import destination as preflight_destination
from services.shared.pg.preflight import freeze as preflight_freeze
from services.shared.pg.preflight import functions as preflight_functions
from services.shared.pg.preflight import locks as preflight_locks
from services.shared.pg.preflight import source as preflight_source
from services.shared.pg.preflight import unpublished as preflight_unpublished
from services.shared.pg.preflight.encoding import check_definitions, check_names
from services.shared.pg.preflight.roles import check_roles
from services.shared.pg.schema.dump_tools import DumpTools, find_tools
from services.shared.pg.schema.existing_objects import plan_to_drop, plan_to_fill
from services.shared.pg.selection.rules import Chosen
from services.shared.pg.session.connection import connection, reached
from services.shared.pg.session.primary import find_primary
from services.shared.pg.session.standbys import check_standbys
from services.shared.pg.session.uri import requires_tls

_DEFAULTS = MigrationOptions()


@dataclass(frozen=True, slots=True)
class Preflight:
    """The result of a passed check. warnings: sentences for the event log. options: as given, with the search
    path of the source. plan: what will be lost on the destination."""

    source: Endpoint
    destination: Endpoint
    tools: DumpTools
    source_identity: DatabaseIdentity
    destination_identity: DatabaseIdentity
    warnings: tuple[str, ...] = ()
    options: MigrationOptions = field(default_factory=MigrationOptions)
    plan: MigrationPlan = field(default_factory=MigrationPlan)


async def check_migration(
    migration: MigrationId,
    source_uri: str,
    destination_uri: str,
    *,
    follow: bool,
    no_key_tables: NoKeyTables = NoKeyTables.REFUSE,
    options: MigrationOptions = _DEFAULTS,
) -> Preflight:
    """Check both databases and the programs. Raises PgmigError for the first problem.

    options: the selection, and how to handle existing contents of the destination.
    """
    check_options(options)
    given = source_uri, destination_uri
    source_uri = await find_primary(source_uri, "source")
    destination_uri = await find_primary(destination_uri, "destination")
    async with (
        connection(source_uri, "source") as source,
        connection(destination_uri, "destination", as_given=True) as destination,
    ):
        facts = await read_server(source, "source"), await read_server(destination, "destination")
        _check_pair(*facts)
        await check_names(source)
        ends = reached(source, given[0]), reached(destination, given[1])
        tls = requires_tls(ends[0]) and not options.data_only
        tools = await find_tools(facts[0].major, facts[1].major, tls=tls)
        options = await _with_search_path(source_uri, options)
        chosen = await choose(source, options, strict=True)
        await check_definitions(source, chosen, data_only=options.data_only)
        warnings = [*chosen.warnings]
        warnings += await preflight_source.check(
            source,
            migration.forward,
            facts[0],
            follow=follow,
            no_key_tables=no_key_tables,
            chosen=chosen,
            rows=not options.schema_only,
        )
        if follow:
            warnings += await preflight_freeze.check(source, source_uri, facts[0])
        guards = not options.no_guard_destination
        warnings += await preflight_destination.check(
            destination, migration.forward, facts[1], follow=follow, guards=guards
        )
        if options.confirm_after_standby:
            await check_standbys(destination, "destination", "leave out --confirm-after-standby")
        plan = MigrationPlan()
        if options.drop_if_exists or options.data_only:
            await preflight_destination.check_unknown(destination, migration.forward)
            plan = await _plan(source, destination, options, chosen)
        else:
            await preflight_destination.check_empty(destination, facts[1])
        if not options.data_only:
            warnings += await preflight_destination.check_extensions(source, destination, chosen)
            warnings += await preflight_locks.check(source, destination, chosen)
        whole = not (options.data_only or options.schema_only)
        large_objects = options.large_objects if whole else LargeObjects.SKIP
        warnings += await preflight_unpublished.check(
            source, facts[0], follow=follow, whole=whole, large_objects=large_objects, chosen=chosen
        )
        if not options.data_only:
            await check_roles(
                source,
                destination,
                facts[1].role,
                no_owner=options.no_owner,
                no_acl=options.no_acl,
                large_objects=large_objects is not LargeObjects.SKIP,
                chosen=chosen,
            )
        if not options.schema_only:
            acting, no_owner = (destination, False) if options.data_only else (source, options.no_owner)
            warnings += await preflight_functions.check(
                acting, destination, facts[1], chosen, no_owner=no_owner
            )
        warnings += _differences(*facts)
    return Preflight(*ends, tools, facts[0].identity, facts[1].identity, tuple(warnings), options, plan)


async def _with_search_path(source_uri: str, options: MigrationOptions) -> MigrationOptions:
    """Resolve the search path once, so that patterns without a schema keep their present meaning."""
    if options.selection.everything or options.selection.search_path:
        return options
    path = await default_search_path(source_uri)
    return replace(options, selection=replace(options.selection, search_path=path))


async def _plan(
    source: AsyncConnection, destination: AsyncConnection, options: MigrationOptions, chosen: Chosen
) -> MigrationPlan:
    """The contents of the destination that will be lost."""
    if options.data_only:
        return await plan_to_fill(source, destination, chosen)
    plan, _ = await plan_to_drop(source, destination, chosen, options)
    return plan


async def reachable(uri: str, side: str) -> None:
    """Check that the server accepts the login. Raises the errors of a connection attempt. A database that a
    switchover has closed counts as reachable: it accepts the login but no session."""
    try:
        async with connection(uri, side):
            pass
    except PgmigError as exc:
        if exc.kind is not ErrorKind.DATABASE_CLOSED:
            raise


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
