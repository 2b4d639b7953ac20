"""Objects that the destination already contains, when a migration is to drop or to fill them.

A plan lists the objects and rows that would be lost. Objects that do not fit are refused. The operator
confirms the plan by its token, and the migration carries out only that plan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from psycopg import AsyncConnection, sql

from services.shared.model import (
    BOOKKEEPING_SCHEMA,
    ErrorKind,
    LargeObjects,
    MigrationOptions,
    MigrationPlan,
    PgmigError,
    TableId,
)
from services.shared.pg.catalog.objects import (
    LARGE_OBJECT,
    SCHEMA,
    DatabaseObject,
    dependencies,
    describe,
    drop_objects,
    list_objects,
)
from services.shared.pg.catalog.partitions import find_routes
from services.shared.pg.catalog.sequences import list_sequences
from services.shared.pg.catalog.server import listing
from services.shared.pg.catalog.tables import list_tables
from services.shared.pg.selection.dependencies import CLASS, fallout
from services.shared.pg.selection.rules import Chosen
from services.shared.pg.session.connection import translated
from services.shared.pg.session.sql_files import load_sql_for
from services.shared.pg.unpublished.extension_tables import list_extension_tables
from services.shared.pg.unpublished.large_objects import count_large_objects

_BATCH = 200
"""Tables that one statement checks for rows."""

_STAYING = frozenset({SCHEMA, LARGE_OBJECT})
_PARTITIONED = "p"
_TAKING_ROWS = frozenset({"r", _PARTITIONED})


def plan_of(drops: Iterable[object] = (), empties: Iterable[object] = ()) -> MigrationPlan:
    """The plan with its token, which is the same only for the same plan."""
    dropped, emptied = tuple(map(str, drops)), tuple(map(str, empties))
    if not (dropped or emptied):
        return MigrationPlan()
    named = "\n".join([*(f"drop {one}" for one in dropped), *(f"empty {one}" for one in emptied)])
    return MigrationPlan(dropped, emptied, hashlib.sha256(named.encode()).hexdigest()[:32])


def check_confirmed(plan: MigrationPlan, token: str) -> None:
    """Raise DESTINATION_NOT_READY for objects that do not fit, and CONFIRMATION_NEEDED unless the operator
    confirmed exactly this plan."""
    if plan.misfits:
        raise PgmigError(
            ErrorKind.DESTINATION_NOT_READY,
            f"the destination does not fit the rows: {'; '.join(plan.misfits)}",
            "change it there, leave them out with --exclude-table or --exclude-table-data, or migrate "
            "without --data-only",
        )
    if plan.token == token or not plan.token:
        return
    reported = [f"{what} {listing(names)}" for what, names in _losses(plan) if names]
    raise PgmigError(
        ErrorKind.CONFIRMATION_NEEDED,
        f"on the destination this would {'; '.join(reported)}",
        "look at the list and confirm it: with --yes, or at a terminal",
    )


def _losses(plan: MigrationPlan) -> tuple[tuple[str, Sequence[str]], ...]:
    return ("drop", plan.drops), ("empty", plan.empties)


# --drop-if-exists


async def plan_to_drop(
    source: AsyncConnection, destination: AsyncConnection, chosen: Chosen, options: MigrationOptions
) -> tuple[MigrationPlan, tuple[DatabaseObject, ...]]:
    """The objects that the migration re-creates, and those of them that are dropped first. Large objects and
    configuration tables of extensions are synchronized with the source later."""
    objects = await _objects_to_drop(source, destination, chosen)
    drops: list[object] = [*objects]
    if options.schema_only:
        return plan_of(drops), objects
    if options.large_objects is not LargeObjects.SKIP:
        count = await count_large_objects(destination)
        drops += [f"{count} large objects"] if count else []
    return plan_of(drops, await _configured(source, destination)), objects


async def _configured(source: AsyncConnection, destination: AsyncConnection) -> list[TableId]:
    """Configuration tables of extensions that exist on both sides and contain rows on the destination."""
    here = {one.table for one in await list_extension_tables(source)}
    holding = []
    for one in await list_extension_tables(destination):
        name, condition = sql.Identifier(one.table.schema, one.table.name), sql.SQL(one.condition)
        query = sql.SQL("SELECT EXISTS (SELECT FROM ONLY {} {})").format(name, condition)
        with translated("looking for rows in configuration tables of the destination"):
            row = await (await destination.execute(query)).fetchone()
        if one.table in here and row is not None and row[0]:
            holding.append(one.table)
    return holding


async def _objects_to_drop(
    source: AsyncConnection, destination: AsyncConnection, chosen: Chosen
) -> tuple[DatabaseObject, ...]:
    """Objects of the destination that the migration re-creates. An existing schema is kept.

    Raises DESTINATION_NOT_READY if other objects have their names or need them.
    """
    made = {
        (one.kind, one.identity): one
        for one in await list_objects(source, "source")
        if chosen.restores(one.node, one.relation) and one.schema != BOOKKEEPING_SCHEMA
    }
    there = await list_objects(destination, "destination")
    _check_places({one.relation: one for one in made.values() if one.relation}, there)
    drops = tuple(one for one in there if (one.kind, one.identity) in made and one.kind not in _STAYING)
    await _check_fallout(destination, drops)
    # Tables first: the sequence of an identity column is dropped only with its table.
    return tuple(sorted(drops, key=lambda one: (one.kind != "table", str(one))))


async def drop_agreed(
    source: AsyncConnection, destination: AsyncConnection, chosen: Chosen, options: MigrationOptions
) -> int:
    """Drop the objects of the confirmed plan, within the caller's transaction on the destination. Returns how
    many. Raises CONFIRMATION_NEEDED if the destination's contents have changed since."""
    plan, objects = await plan_to_drop(source, destination, chosen, options)
    check_confirmed(plan, options.confirmed)
    await drop_objects(destination, objects)
    return len(objects)


def _check_places(made: dict[TableId, DatabaseObject], there: Sequence[DatabaseObject]) -> None:
    taken = [
        f"{one}, where {made[one.relation].kind} {made[one.relation].identity} is to be created"
        for one in there
        if one.relation in made and one.kind != made[one.relation].kind
    ]
    if taken:
        raise PgmigError(
            ErrorKind.DESTINATION_NOT_READY,
            f"the destination holds {'; '.join(taken)}",
            "drop or rename them on the destination, or leave them out of the migration",
        )


async def _check_fallout(conn: AsyncConnection, drops: Sequence[DatabaseObject]) -> None:
    if not drops:
        return
    edges = await dependencies(conn, "destination")
    gone, broken = fallout(edges, [one.node for one in drops])
    listed = {one.node for one in drops}
    others = {
        one.node
        for one in await list_objects(conn, "destination")
        if one.node in gone - listed and one.node[0] == CLASS and one.kind != "sequence"
    }
    if broken or others:
        named = await describe(conn, broken | others)
        raise PgmigError(
            ErrorKind.DESTINATION_NOT_READY,
            f"objects of the destination need what would be dropped: {', '.join(named)}",
            "drop them on the destination first",
        )


# --data-only


async def check_agreed(
    source: AsyncConnection, destination: AsyncConnection, chosen: Chosen, token: str
) -> None:
    """Raise CONFIRMATION_NEEDED if the tables with rows differ from those in the plan of this token."""
    check_confirmed(await plan_to_fill(source, destination, chosen), token)


@dataclass(frozen=True, slots=True)
class _Shape:
    """kind: pg_class.relkind. columns: name to type and whether it is generated."""

    kind: str
    columns: dict[str, tuple[str, bool]]


async def plan_to_fill(
    source: AsyncConnection, destination: AsyncConnection, chosen: Chosen
) -> MigrationPlan:
    """Tables of the destination that will get rows and already contain some; or all tables and sequences that
    do not fit. Partitions that the destination lacks, or that have other bounds there, are written to their
    root."""
    roots = {route.leaf: route.root for route in await find_routes(source, destination, chosen)}
    listed = [table.table for table in await list_tables(source, chosen)]
    tables = list(dict.fromkeys(roots.get(table, table) for table in listed))
    here, there = await _shapes(source, tables), await _shapes(destination, tables)
    misfits = [fault for table in tables if (fault := _misfit(table, here[table], there.get(table)))]
    sequences = set(await list_sequences(destination, "destination"))
    misfits += [
        f"sequence {name} is not there"
        for name in await list_sequences(source, "source", chosen)
        if name not in sequences
    ]
    if misfits:
        return MigrationPlan(misfits=tuple(misfits))
    return plan_of(empties=await _holding_rows(destination, there))


async def _shapes(conn: AsyncConnection, tables: Sequence[TableId]) -> dict[TableId, _Shape]:
    with translated("comparing the tables of both databases"):
        cursor = await conn.execute(
            load_sql_for("schema/sql/existing_columns.sql", conn.info.server_version),
            {"schemas": [table.schema for table in tables], "names": [table.name for table in tables]},
        )
        return {
            TableId(schema, name): _Shape(kind, {c["name"]: (c["type"], c["generated"]) for c in columns})
            async for schema, name, kind, columns in cursor
        }


def _misfit(table: TableId, here: _Shape, there: _Shape | None) -> str:
    """The differences that make a table of the destination unusable. "" if it fits."""
    if there is None:
        return f"table {table} is not there"
    if there.kind not in _TAKING_ROWS:
        return f"{table} is not an ordinary or partitioned table there"
    faults = [f"no column {name}" for name in here.columns if name not in there.columns]
    faults += [f"a column {name} more" for name in there.columns if name not in here.columns]
    for name, (kind, generated) in here.columns.items():
        if name not in there.columns:
            continue
        found, found_generated = there.columns[name]
        if found != kind:
            faults.append(f"column {name} is {found} instead of {kind}")
        elif found_generated != generated:
            faults.append(f"column {name} is {'' if found_generated else 'not '}generated")
    return f"table {table} has {', '.join(faults)}" if faults else ""


async def _holding_rows(conn: AsyncConnection, tables: Mapping[TableId, _Shape]) -> tuple[TableId, ...]:
    found: list[TableId] = []
    listed = list(tables.items())
    one = sql.SQL("SELECT {}::int WHERE EXISTS (SELECT FROM {}{})")
    with translated("looking for rows on the destination"):
        for start in range(0, len(listed), _BATCH):
            part = listed[start : start + _BATCH]
            query = sql.SQL(" UNION ALL ").join(
                one.format(
                    sql.Literal(index),
                    sql.SQL("" if shape.kind == _PARTITIONED else "ONLY "),
                    sql.Identifier(table.schema, table.name),
                )
                for index, (table, shape) in enumerate(part)
            )
            found += [part[row[0]][0] for row in await (await conn.execute(query)).fetchall()]
    return tuple(sorted(found))
