"""Checks of the destination: empty, writable, and able to take part in replication."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
from psycopg import AsyncConnection

from services.shared.model import ErrorKind, PgmigError, PipelineId
from services.shared.pg.apply.long_values import LONG
from services.shared.pg.bookkeeping.copy_ledger import read_ledger
from services.shared.pg.bookkeeping.progress import ORIGIN_FUNCTIONS
from services.shared.pg.bookkeeping.schema import steps_done
from services.shared.pg.catalog.objects import list_objects
from services.shared.pg.catalog.server import ServerFacts, listing
from services.shared.pg.guard.read_only import guarded_by, other_guards
from services.shared.pg.preflight import read_only as preflight_read_only
from services.shared.pg.selection.dependencies import EXTENSION
from services.shared.pg.selection.rules import EVERYTHING, Chosen
from services.shared.pg.session.connection import not_ready, translated
from services.shared.pg.session.event_triggers import unsilenced

_GRANT_SET_SINCE = 150000
_ORIGIN_LIMIT_SINCE = 180000
OBJECTS_NAMED = 20
"""Number of objects that are named if the destination should be empty."""
OLDEST_MAJOR = 12
"""The oldest destination. Only a pipeline back to a migration's source applies changes to older servers."""


async def check(
    conn: AsyncConnection, pipeline: PipelineId, facts: ServerFacts, *, follow: bool, guards: bool = True
) -> list[str]:
    """Returns warnings. Raises an error for a condition that makes a migration to this destination
    impossible. guards: the migration will keep others from writing there."""
    guarded = facts.read_only_from == preflight_read_only.DATABASE and await guarded_by(conn)
    if facts.read_only and not guarded:
        raise preflight_read_only.refusal(facts, "destination")
    if guards and (others := await other_guards(conn, pipeline)):
        raise _guarded_by_others(facts, others)
    if not facts.may_create:
        raise PgmigError(
            ErrorKind.PERMISSION,
            f"role {facts.role} may not create schemas in database {facts.dbname} of the destination",
            f"GRANT CREATE ON DATABASE {facts.dbname} TO {facts.role}",
        )
    refused = await replica_role_refused(conn, facts, "destination")
    if refused is not None:
        raise refused
    warnings: list[str] = []
    if follow:
        warnings += await _check_progress(conn, pipeline, facts)
        warnings += await _check_long_values(conn, facts)
    firing = await unsilenced(conn)
    if firing:
        warnings.append(f"event triggers of the destination fire during the load: {listing(firing)}")
    return warnings


def _guarded_by_others(facts: ServerFacts, others: Sequence[str]) -> PgmigError:
    """Neither of the two could be switched over: each would keep the database read-only for the other."""
    return not_ready(
        "destination",
        f"another migration keeps database {facts.dbname} of the destination read-only by default: "
        f"{listing(others)}",
        "end that migration first, or use --no-guard-destination for this one, which can be switched over "
        "when the other one has ended. If that one does not exist any more, delete its row from pgmig.guard "
        f"and run ALTER DATABASE {facts.dbname} RESET default_transaction_read_only on the destination",
    )


async def check_empty(conn: AsyncConnection, facts: ServerFacts) -> None:
    """Raise DESTINATION_NOT_READY unless the database is empty. The list begins with one of each kind."""
    found = await list_objects(conn, "destination")
    if found:
        raise not_ready(
            "destination",
            f"destination database {facts.dbname} is not empty: {listing(found, OBJECTS_NAMED)}",
            "give an empty database, or use --drop-if-exists or --data-only; `cleanup` of an earlier "
            "migration leaves the tables that it copied",
        )


async def check_unknown(conn: AsyncConnection, pipeline: PipelineId) -> None:
    """Raise ALREADY_EXISTS if the destination has bookkeeping of an earlier migration with this id, because
    it would be mistaken for this migration's."""
    if await steps_done(conn, pipeline) or (await read_ledger(conn, pipeline)).plans:
        raise PgmigError(
            ErrorKind.ALREADY_EXISTS,
            f"the destination knows a migration {pipeline.migration} already",
            "clean up the earlier migration of this id, or choose another one with --id",
        )


async def replica_role_refused(conn: AsyncConnection, facts: ServerFacts, side: str) -> PgmigError | None:
    """The error for a role that may not keep triggers and foreign keys from acting on replicated rows. side:
    "source" or "destination"."""
    try:
        async with conn.transaction(force_rollback=True):
            await conn.execute("SET LOCAL session_replication_role = replica")
    except psycopg.errors.InsufficientPrivilege:
        grant = f", or GRANT SET ON PARAMETER session_replication_role TO {facts.role}"
        return PgmigError(
            ErrorKind.PERMISSION,
            f"role {facts.role} of the {side} may not set session_replication_role",
            f"use a superuser{grant if facts.version_num >= _GRANT_SET_SINCE else ''}",
        )
    return None


async def _check_progress(conn: AsyncConnection, pipeline: PipelineId, facts: ServerFacts) -> list[str]:
    """Returns warnings. With an earlier progress of the origin, changes would be skipped. A progress row
    cannot exist, because the database is empty."""
    exists, denied = await origin_facts(conn, pipeline, "destination")
    if exists:
        raise PgmigError(
            ErrorKind.ALREADY_EXISTS,
            f"replication origin {pipeline.origin} is on the destination already",
            "clean up the earlier migration of this id, or choose another one with --id",
        )
    if denied:
        return [
            f"role {facts.role} of the destination may not use replication origins ({listing(denied)}): "
            "progress is kept in the table pgmig.progress"
        ]
    full = await no_free_origin(conn, facts, "destination")
    if full is not None:
        raise full
    return []


async def origin_facts(conn: AsyncConnection, pipeline: PipelineId, side: str) -> tuple[bool, list[str]]:
    """Whether the pipeline's origin exists, and the functions of origins that the role may not call."""
    with translated(f"checking the {side}'s replication origins"):
        found = await (
            await conn.execute(
                "SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_origin WHERE roname = %s),"
                " ARRAY(SELECT f FROM unnest(%s::text[]) f WHERE NOT pg_catalog.has_function_privilege("
                "  ('pg_catalog.' || f)::pg_catalog.regprocedure, 'EXECUTE'))",
                [pipeline.origin, list(ORIGIN_FUNCTIONS)],
            )
        ).fetchone()
    assert found is not None
    return bool(found[0]), list(found[1])


async def _check_long_values(conn: AsyncConnection, facts: ServerFacts) -> list[str]:
    """Long values are sent through a temporary table."""
    query = "SELECT pg_catalog.has_database_privilege(current_database(), 'TEMPORARY')"
    with translated("checking the privileges on the destination"):
        row = await (await conn.execute(query)).fetchone()
    if row is not None and row[0]:
        return []
    return [
        f"role {facts.role} may not create temporary tables in database {facts.dbname} of the destination, "
        f"which changes with values beyond {LONG >> 20} MB need: "
        f"GRANT TEMPORARY ON DATABASE {facts.dbname} TO {facts.role}"
    ]


async def no_free_origin(conn: AsyncConnection, facts: ServerFacts, side: str) -> PgmigError | None:
    """The error if no further origin can be used. Each origin with progress uses an entry of a table whose
    size is fixed at server start."""
    setting = (
        "max_active_replication_origins"
        if facts.version_num >= _ORIGIN_LIMIT_SINCE
        else "max_replication_slots"
    )
    with translated(f"checking the {side}'s replication origins"):
        row = await (
            await conn.execute(
                "SELECT current_setting(%s)::int, (SELECT count(*) FROM pg_catalog.pg_replication_origin)",
                [setting],
            )
        ).fetchone()
    assert row is not None
    limit, taken = row
    if taken < limit:
        return None
    return not_ready(
        side,
        f"all {limit} replication origins of the {side} are in use",
        f"drop an origin that nobody uses, or raise {setting} and restart the {side}",
    )


async def check_extensions(
    source: AsyncConnection, destination: AsyncConnection, chosen: Chosen = EVERYTHING
) -> list[str]:
    """The source's extensions must be available on the destination."""
    with translated("comparing extensions"):
        wanted = await (
            await source.execute("SELECT extname::text, oid::bigint FROM pg_catalog.pg_extension ORDER BY 1")
        ).fetchall()
        lacking = await (
            await destination.execute(
                "SELECT e FROM unnest(%s::text[]) e"
                " WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_available_extensions a WHERE a.name = e)",
                [[name for name, oid in wanted if (EXTENSION, oid) not in chosen.dropped]],
            )
        ).fetchall()
    if lacking:
        raise not_ready(
            "destination",
            f"the destination server lacks extensions of the source: {listing([r[0] for r in lacking])}",
            "install their packages on the destination's host, or drop them on the source",
        )
    return []
