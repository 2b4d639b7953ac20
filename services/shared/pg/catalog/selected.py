"""The part of the source that a migration includes: its patterns, resolved in the source's catalogs.

The patterns are stored with the migration. They are resolved again each time the answer is needed, in one
snapshot of the catalogs. So pgmig recognizes whether a table that is created later was selected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any, LiteralString

import psycopg
from psycopg import AsyncConnection

from services.shared.model import (
    BOOKKEEPING_SCHEMA,
    ErrorKind,
    MigrationOptions,
    Pattern,
    PgmigError,
    Selection,
    TableId,
)
from services.shared.model.tables.selection import (
    EXCLUDE_SCHEMA,
    EXCLUDE_TABLE,
    EXCLUDE_TABLE_DATA,
    INCLUDE_SCHEMA,
    INCLUDE_TABLE,
)
from services.shared.pg.catalog.objects import dependencies, describe
from services.shared.pg.catalog.tables import ROOTS_SINCE, under_snapshot
from services.shared.pg.selection.dependencies import (
    CLASS,
    CONSTRAINT,
    NAMESPACE,
    Edge,
    Node,
    Outcome,
    Wanted,
    decide,
)
from services.shared.pg.selection.rules import (
    EVERYTHING,
    MATERIALIZED,
    SEQUENCE,
    VIEW,
    Chosen,
    Family,
    ForeignKey,
    Matches,
    Relation,
    cut_keys,
    is_chosen,
    is_filled,
    publishable,
)
from services.shared.pg.session.connection import complete_conninfo, connect_failure, open_session, translated
from services.shared.pg.session.sql_files import load_sql, load_sql_for
from services.shared.pg.session.uri import parameters

_BOOKKEEPING = {"bookkeeping": BOOKKEEPING_SCHEMA}
_DOING = "looking up on the source the objects to migrate"


async def default_search_path(uri: str) -> tuple[str, ...]:
    """The search path of a session of the URI's role: schemas in order, without pg_catalog. pgmig's own
    sessions have an empty search path."""
    own = parameters(uri, "source").get("options", "")
    try:
        conn = await open_session(complete_conninfo(uri, "pgmig source", "source", options=own))
    except psycopg.OperationalError as exc:
        raise connect_failure(exc, uri, "source") from exc
    try:
        with translated("checking the source's search path"):
            row = await (await conn.execute("SELECT pg_catalog.current_schemas(false)::text[]")).fetchone()
    finally:
        await conn.close()
    return tuple(row[0]) if row else ()


async def choose(conn: AsyncConnection, options: MigrationOptions, *, strict: bool = False) -> Chosen:
    """The objects of the source that `options` include, in the connection's snapshot.

    strict: raises INVALID_ARGUMENT with the list of patterns that match nothing. Raises SOURCE_NOT_READY for
    a table that cannot be created without a table that is excluded.
    """
    selection = options.selection
    if selection.everything:
        return EVERYTHING
    with translated(_DOING):
        cursor = await conn.execute(load_sql("catalog/sql/selected_relations.sql"), _BOOKKEEPING)
        relations = [
            Relation(oid, TableId(schema, name), kind, owner, parent, owned_by)
            async for oid, schema, name, kind, owner, parent, owned_by in cursor
        ]
        schemas = await _schemas(conn)
        matches = await _matches(conn, selection, relations, tuple(schemas.values()), strict=strict)
        return await _choose(conn, Family.of(relations), schemas, matches, options)


async def choose_under(conn: AsyncConnection, snapshot: str, options: MigrationOptions) -> Chosen:
    """`choose` as of an exported snapshot. Raises SNAPSHOT_LOST."""
    if options.selection.everything:
        return EVERYTHING
    async with under_snapshot(conn, snapshot):
        return await choose(conn, options)


async def _schemas(conn: AsyncConnection) -> dict[int, str]:
    cursor = await conn.execute(
        "SELECT oid::bigint, nspname FROM pg_catalog.pg_namespace"
        " WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', %(bookkeeping)s)",
        _BOOKKEEPING,
    )
    return dict(await cursor.fetchall())


async def _matches(
    conn: AsyncConnection,
    selection: Selection,
    relations: Sequence[Relation],
    schemas: Sequence[str],
    *,
    strict: bool,
) -> Matches:
    oids = [relation.oid for relation in relations]
    tables: dict[str, set[int]] = {}
    named: dict[str, set[str]] = {}
    idle: list[Pattern] = []
    for pattern in selection.patterns():
        if pattern.of_schemas:
            of_schemas = named.setdefault(pattern.option, set())
            found = len(names := await _matching_schemas(conn, pattern, schemas))
            of_schemas |= names
        else:
            of_tables = tables.setdefault(pattern.option, set())
            found = len(matching := await _matching_relations(conn, pattern, oids, selection.search_path))
            of_tables |= matching
        if not found:
            idle.append(pattern)
    if strict and idle:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"nothing on the source matches {', '.join(f'{one.option} {one.text!r}' for one in idle)}",
            "a name without a schema is looked up in "
            f"{', '.join(selection.search_path) or 'no schema'}; letters are folded to lower case"
            " unless in double quotes",
        )
    return Matches(
        tables.get(INCLUDE_TABLE),
        tables.get(EXCLUDE_TABLE, ()),
        tables.get(EXCLUDE_TABLE_DATA, ()),
        named.get(INCLUDE_SCHEMA),
        named.get(EXCLUDE_SCHEMA, ()),
    )


async def _matching_relations(
    conn: AsyncConnection, pattern: Pattern, oids: list[int], path: Sequence[str]
) -> set[int]:
    values = {"oids": oids, "name": pattern.name, "schema": pattern.schema, "path": list(path)}
    return {
        row[0] for row in await _matched(conn, pattern, load_sql("catalog/sql/selected_matches.sql"), values)
    }


async def _matching_schemas(conn: AsyncConnection, pattern: Pattern, schemas: Sequence[str]) -> set[str]:
    query: LiteralString = (
        'SELECT s FROM unnest(%(of)s::text[]) s WHERE s ~ %(schema)s COLLATE pg_catalog."default"'
    )
    values = {"of": list(schemas), "schema": pattern.schema}
    return {row[0] for row in await _matched(conn, pattern, query, values)}


async def _matched(
    conn: AsyncConnection, pattern: Pattern, query: LiteralString, values: Mapping[str, object]
) -> list[tuple[Any, ...]]:
    try:
        return await (await conn.execute(query, values)).fetchall()
    except psycopg.errors.InvalidRegularExpression as exc:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"{pattern.option} {pattern.text!r} is not a pattern: {exc.diag.message_primary}",
            "put letters that are meant as they stand in double quotes",
        ) from exc


async def _choose(
    conn: AsyncConnection,
    family: Family,
    schemas: Mapping[int, str],
    matches: Matches,
    options: MigrationOptions,
) -> Chosen:
    made = {
        relation.oid for relation in family.relations.values() if is_chosen(family.lineage(relation), matches)
    }
    cursor = await conn.execute(load_sql_for("catalog/sql/selected_keys.sql", conn.info.server_version))
    keys = [ForeignKey(*row) for row in await cursor.fetchall()]
    nodes, edges = await _graph(conn)
    wanted = _wanted(family, schemas, matches, made, keys)
    outcome = await asyncio.to_thread(decide, nodes, edges, wanted)  # there may be hundreds of thousands
    if not options.data_only:
        _check_lacking(family, outcome)
    made = {oid for catalog, oid in outcome.kept if catalog == CLASS and oid in family.relations}
    filled = {
        oid
        for oid in made
        if is_filled(family.relations[oid], family.lineage(family.relations[oid]), matches)
    }
    lost, gone = cut_keys(family, keys, made, filled, rows=not options.schema_only)
    all_keys = {(CONSTRAINT, key.oid) for key in keys}
    dropped = (nodes - outcome.kept - all_keys) | {(CONSTRAINT, key.oid) for key in lost}
    if options.schema_only:
        filled = set()
    roots = conn.info.server_version >= ROOTS_SINCE
    warnings = (*_keys_left_out(lost, gone), *await _told_cut(conn, outcome), *_told_alone(family, made))
    return Chosen(
        everything=False,
        relations=_names(family, made),
        filled=_names(family, filled),
        published=_names(family, publishable(family, filled, roots=roots)),
        missing=tuple(one.table for one in family.relations.values() if one.oid not in made),
        dropped=frozenset(dropped),
        unattached=await _unattached(conn, family, made),
        unfilled=frozenset(
            one.oid for one in family.relations.values() if one.kind == MATERIALIZED and one.oid not in filled
        ),
        schemas_dropped=tuple(name for oid, name in schemas.items() if (NAMESPACE, oid) in dropped),
        warnings=() if options.data_only else warnings,  # a data-only migration creates nothing
    )


async def _graph(conn: AsyncConnection) -> tuple[set[Node], list[Edge]]:
    edges = await dependencies(conn, "source")
    cursor = await conn.execute(load_sql("catalog/sql/selected_objects.sql"), _BOOKKEEPING)
    nodes: set[Node] = {(catalog, oid) for catalog, oid in await cursor.fetchall()}
    return nodes | {edge.dependent for edge in edges}, edges


def _wanted(
    family: Family,
    schemas: Mapping[int, str],
    matches: Matches,
    made: Collection[int],
    keys: Sequence[ForeignKey],
) -> Wanted:
    views = {one.oid for one in family.relations.values() if one.kind in {VIEW, MATERIALIZED}}
    others: frozenset[int] | None = None
    if matches.include_tables is not None or matches.include_schemas is not None:
        included = set(matches.include_schemas or ()) - set(matches.exclude_schemas)
        others = frozenset(oid for oid, name in schemas.items() if name in included)
    return Wanted(
        tables=frozenset(made) - views,
        views=frozenset(made) & views,
        left_out=frozenset(family.relations) - frozenset(made),
        sequences=frozenset(one.oid for one in family.relations.values() if one.kind == SEQUENCE),
        schemas=others,
        left_out_schemas=frozenset(oid for oid, name in schemas.items() if name in matches.exclude_schemas),
        keys=frozenset(key.oid for key in keys),
    )


def _check_lacking(family: Family, outcome: Outcome) -> None:
    if not outcome.lacking:
        return
    reported = [
        f"{family.relations[oid].table} without {family.relations[needed].table}"
        for oid, needed in outcome.lacking.items()
    ]
    raise PgmigError(
        ErrorKind.SOURCE_NOT_READY,
        f"tables cannot be made without what is left out: {', '.join(sorted(reported))}",
        "they inherit from it, or have columns of its type: choose both, or leave out both",
    )


async def _unattached(
    conn: AsyncConnection, family: Family, made: Collection[int]
) -> frozenset[tuple[str, TableId]]:
    """Attachments to leave out: pg_dump attaches a partition and its indexes to their parents, even if it
    does not write these."""
    alone = {oid: family.relations[oid] for oid in made if family.relations[oid].parent not in {0, *made}}
    cursor = await conn.execute(
        "SELECT i.indrelid::bigint, c.relname FROM pg_catalog.pg_index i"
        " JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = ANY (%s)",
        [list(alone)],
    )
    found = {("TABLE ATTACH", one.table) for one in alone.values()}
    for oid, name in await cursor.fetchall():
        found.add(("INDEX ATTACH", TableId(alone[oid].table.schema, name)))
    return frozenset(found)


def _names(family: Family, oids: Collection[int]) -> frozenset[TableId]:
    return frozenset(family.relations[oid].table for oid in oids)


def _keys_left_out(lost: Sequence[ForeignKey], gone: Sequence[ForeignKey]) -> list[str]:
    reported = {
        "foreign keys are not created, since they refer to rows left out": lost,
        "foreign keys are left out with their tables": gone,
    }
    return [f"{what}: {', '.join(key.label for key in keys)}" for what, keys in reported.items() if keys]


async def _told_cut(conn: AsyncConnection, outcome: Outcome) -> list[str]:
    if not outcome.cut:
        return []
    named = await describe(conn, outcome.cut)
    return [f"left out too, since they need what is left out: {', '.join(named)}"]


def _told_alone(family: Family, made: Collection[int]) -> list[str]:
    alone = sorted(
        family.relations[oid].table for oid in made if family.relations[oid].parent not in {0, *made}
    )
    if not alone:
        return []
    return [f"partitions become tables of their own: {', '.join(map(str, alone))}"]
