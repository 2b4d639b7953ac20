"""Tables of both sides, compared: each change must have a table, and each column a place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from psycopg import AsyncConnection

from services.shared.model import PipelineId, Route, TableId
from services.shared.pg.catalog.columns import ColumnDefinition, read_columns
from services.shared.pg.catalog.replica_identity import Published
from services.shared.pg.catalog.replica_identity_facts import roots_among
from services.shared.pg.reverse.findings import Findings
from services.shared.pg.session.connection import translated
from services.shared.pg.session.sql_files import load_sql


async def check(
    findings: Findings,
    publisher: AsyncConnection,
    subscriber: AsyncConnection,
    pipeline: PipelineId,
    *,
    published: Published,
    routes: Sequence[Route],
) -> None:
    """Compare the tables whose changes are sent with those that they are written to."""
    places = await written_to(publisher, published, routes)
    existing = await _targets(findings, subscriber, pipeline, places)
    _routes(findings, pipeline, [one for one in routes if one.leaf in places])
    compared = {table: place for table, place in places.items() if place in existing}
    here = await read_columns(publisher, list(compared))
    there = await read_columns(subscriber, list(set(compared.values())))
    _columns(findings, pipeline, compared, here, there, sends_generated=published.sends_generated)


async def written_to(
    publisher: AsyncConnection, published: Published, routes: Sequence[Route]
) -> dict[TableId, TableId]:
    """The tables that changes name, and the subscriber's table that each is written to."""
    tables = {*published.whole, *(one.table for one in published.altered)}
    roots = await roots_among(publisher, tables)
    leaves = {leaf for table in tables for leaf in (roots[table].leaves if table in roots else (table,))}
    by_leaf = {route.leaf: route.root for route in routes}
    return {leaf: by_leaf.get(leaf, leaf) for leaf in sorted(leaves)}


async def _targets(
    findings: Findings, conn: AsyncConnection, pipeline: PipelineId, places: Mapping[TableId, TableId]
) -> set[TableId]:
    """Returns those that exist."""
    side, wanted = pipeline.subscriber, sorted(set(places.values()))
    with translated(f"checking privileges on the {side}'s tables"):
        cursor = await conn.execute(
            load_sql("reverse/targets.sql"),
            {"schemas": [one.schema for one in wanted], "names": [one.name for one in wanted]},
        )
        rows = await cursor.fetchall()
    found = [(TableId(schema, name), *facts) for schema, name, *facts in rows]
    findings.block_for(
        f"tables of the {pipeline.publisher} do not exist on the {side}",
        [table for table, exists, *_ in found if not exists],
        f"create them on the {side}, or drop them on the {pipeline.publisher}",
    )
    findings.block_for(
        f"our role may not write to tables of the {side}",
        [table for table, exists, may_write, *_ in found if exists and not may_write],
        "GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE on them and USAGE on their schemas, or use their "
        "owner",
    )
    findings.block_for(
        f"row-level security of the {side} applies to our role",
        [table for table, _, _, secured, _ in found if secured],
        "use a role with BYPASSRLS, or the tables' owner without FORCE ROW LEVEL SECURITY",
    )
    findings.warn_of(
        f"ALWAYS and REPLICA triggers of the {side} fire for replicated rows",
        [table for table, *_, fires in found if fires],
        "ALTER TABLE ... ENABLE TRIGGER makes a trigger fire for the application's rows only",
    )
    return {table for table, exists, *_ in found if exists}


def _routes(findings: Findings, pipeline: PipelineId, routes: Sequence[Route]) -> None:
    findings.warn_of(
        f"the {pipeline.subscriber} partitions tables in another way: changes are written to the partitioned "
        "table, and a TRUNCATE of a single partition stops the pipeline",
        sorted({route.root for route in routes}),
        "use DELETE instead of TRUNCATE for a partition",
    )


def _columns(
    findings: Findings,
    pipeline: PipelineId,
    places: Mapping[TableId, TableId],
    here: Mapping[TableId, Sequence[ColumnDefinition]],
    there: Mapping[TableId, Sequence[ColumnDefinition]],
    *,
    sends_generated: bool,
) -> None:
    blocking: dict[str, list[str]] = {}
    types: list[str] = []
    for table, place in places.items():
        known = {column.name: column for column in there.get(place, ())}
        for problem, name in _differences(here.get(table, ()), known, sends_generated=sends_generated):
            blocking.setdefault(problem, []).append(f"{table}.{name}")
        types += [
            f"{table}.{one.name}"
            for one in here.get(table, ())
            if one.name in known and known[one.name].type_sql != one.type_sql
        ]
    for problem, names in blocking.items():
        findings.block_for(
            problem.format(publisher=pipeline.publisher, subscriber=pipeline.subscriber),
            names,
            "make the columns of both sides equal",
        )
    findings.warn_of(
        f"columns have another type on the {pipeline.subscriber}",
        types,
        "a value that this type does not accept stops the pipeline: make the types equal",
    )


def _differences(
    here: Sequence[ColumnDefinition], there: Mapping[str, ColumnDefinition], *, sends_generated: bool
) -> Iterator[tuple[str, str]]:
    names = set()
    for column in here:
        names.add(column.name)
        other = there.get(column.name)
        sent = not column.generated or (sends_generated and column.generated == "s")
        if other is None:
            if sent:
                yield "columns of the {publisher} do not exist on the {subscriber}", column.name
        elif other.generated and not column.generated:
            yield "columns are generated on the {subscriber} only", column.name
        elif column.generated and not other.generated:
            yield "columns are generated on the {publisher} only, so their values are not sent", column.name
    for other in there.values():
        filled = other.generated or other.identity or other.default or not other.not_null
        if other.name not in names and not filled:
            yield "columns of the {subscriber} need a value and do not exist on the {publisher}", other.name
