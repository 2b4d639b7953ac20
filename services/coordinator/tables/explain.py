"""Error messages about tables that changed on the source, with the DDL that the destination needs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from services.coordinator.tables.look import Difference, Look
from services.shared.model import ChangeKind, ErrorKind, MigrationId, PgmigError, Route, TableId
from services.shared.pg.apply.schema_drift import run_there
from services.shared.pg.catalog.columns import read_columns
from services.shared.pg.catalog.new_table import new_table
from services.shared.pg.catalog.partition_routes import Lineage, creation, lineage
from services.shared.pg.catalog.partitions import existing_tables
from services.shared.pg.catalog.table_changes import (
    Comparison,
    compare,
    drop_table,
    expressions_set,
    rename_table,
)
from services.shared.pg.session.connection import Connection

LISTED = 5
"""Tables that one error names."""


@dataclass(frozen=True, slots=True)
class Finding:
    """problem: text for an error message. statements: DDL for the destination. needs_copy: after the DDL
    `resync-table` is needed; otherwise it is enough to resume. absent: the destination has no such table.
    first: DDL that comes before the statements of all findings. leaves: tables to copy instead of `table`."""

    table: TableId
    problem: str
    statements: tuple[str, ...]
    needs_copy: bool
    absent: bool = False
    first: tuple[str, ...] = ()
    leaves: tuple[TableId, ...] = ()


async def findings(
    source: Connection,
    destination: Connection,
    seen: Look,
    differences: Sequence[Difference],
    added: Sequence[TableId],
) -> tuple[Finding, ...]:
    """One finding for each difference and each added table. added: published tables that do not exist on the
    destination."""
    tables = [one.table for one in differences]
    targets = [seen.target(table) for table in tables]
    here, there = await read_columns(source, tables), await read_columns(destination, targets)
    others = {seen.target(table) for table in seen.known if table in seen.now} if tables else set()
    lines = await lineage(source, destination, {*tables, *targets, *others}, seen.chosen)
    detached = _detaching(destination, lines, targets)
    found = []
    # Roots first: a partition's own defaults may be of columns that it gets from its root.
    for one in sorted(differences, key=lambda one: (one.before.has_rows, lines.root(one.table) != one.table)):
        comparison = Comparison()
        target = seen.target(one.table)
        root = lines.root(target)
        if one.now is not None and one.table in here and target in there:
            comparison = compare(
                destination,
                None if one.kind is ChangeKind.REPLACED else one.before,
                one.now,
                here[one.table],
                there[target],
                root=root,
                lax=True,
                copied=one.kind.needs_copy,
                exact=one.kind is ChangeKind.REPLACED and target == one.table and lines.has_order(target),
                own_only=root != one.table and root in seen.known,
                set_by_root=expressions_set(here.get(root, ()), there.get(root, ())),
            )
            if target != one.table:  # other differences are reported for the root
                comparison = replace(comparison, own=())
            else:
                placed = lines.placing(destination, target)
                comparison = replace(comparison, own=(*comparison.own, *placed))
        found.append(replace(_finding(destination, seen, one, comparison), first=detached))
    names = {one.oid: one.table for one in seen.now.values()}
    renamed = {names.get(one.before.oid) for one in differences if one.now is None}
    new = [table for table in added if table not in renamed]
    return (*found, *await creations(source, destination, new, copied=False))


def _detaching(conn: Connection, lines: Lineage, targets: Sequence[TableId]) -> tuple[str, ...]:
    """Statements for every partition that the source has detached from the roots of `targets`. They come
    first, because a statement for the root alters all partitions that are still attached."""
    roots = {lines.roots_there.get(target, target) for target in targets}
    leaves = sorted(
        table for table, root in lines.roots_there.items() if root in roots and table in lines.roots_here
    )
    return tuple(statement for leaf in leaves for statement in lines.detaching(conn, leaf))


async def creations(
    source: Connection, destination: Connection, tables: Sequence[TableId], *, copied: bool
) -> tuple[Finding, ...]:
    """Findings for tables of the source that do not exist on the destination. copied: tables that are not
    partitions are copied without `resync-table`."""
    found: list[Finding] = []
    given: dict[str, set[str]] = {}
    for table in tables:
        statements, needs_copy = await creation(source, destination, table), False
        problem = f"{table} is new on the source and missing on the destination"
        if not statements:
            names = given.setdefault(table.schema, set())
            new = await new_table(source, destination, table, names)
            names.update(new.renamed.values())
            statements, needs_copy = new.statements, not copied
            problem += " (foreign keys, triggers and privileges are not part of the proposed DDL)"
            if new.renamed:
                pairs = ", ".join(f"{one} is created as {other}" for one, other in new.renamed.items())
                problem += f" (names of indexes that are taken on the destination: {pairs})"
        found.append(Finding(table, problem, statements, needs_copy, absent=True))
    return tuple(found)


def _finding(conn: Connection, seen: Look, one: Difference, comparison: Comparison) -> Finding:
    table = one.table
    if one.now is None:
        names = {other.oid: other.table for other in seen.now.values()}
        return gone_from_source(conn, table, one.before.oid, names)
    if one.before.logged and not one.now.logged:
        return unlogged(table)
    problems = {
        ChangeKind.REPLACED: f"{table} is another table now: dropped and created again, or renamed",
        ChangeKind.MOVED: f"{table} was removed from the publication for a while, by DETACH PARTITION, "
        "ATTACH PARTITION, SET UNLOGGED or ALTER PUBLICATION",
        ChangeKind.REWRITTEN: f"ALTER TABLE rewrote the rows or replaced a column of {table}",
        ChangeKind.COLUMNS: f"columns of {table} were altered",
    }
    problem = problems[one.kind]
    if comparison.old_rows_differ and not comparison.statements:
        problem = f"a column of {table} is new, and existing rows have another value in it on the destination"
    needs_copy = one.before.has_rows and (one.kind.needs_copy or comparison.old_rows_differ)
    return Finding(table, problem, comparison.statements, needs_copy)


def gone_from_source(conn: Connection, table: TableId, oid: int, names: Mapping[int, TableId]) -> Finding:
    """The finding for a table that no longer exists on the source. oid: the OID that it had. names: the
    source's tables by OID."""
    renamed = names.get(oid)
    if renamed is None or renamed == table:
        return Finding(table, f"{table} was dropped", drop_table(conn, table), needs_copy=False)
    statements = rename_table(conn, table, renamed)
    return Finding(table, f"{table} was renamed to {renamed}", statements, needs_copy=False)


def left_root(partition: tuple[TableId, TableId]) -> Finding:
    """The finding for a table that is no longer a partition of its root, while the destination still has its
    rows in the root's table."""
    leaf, root = partition
    problem = f"{leaf} is no partition of {root} any more, but its rows are in that table on the destination"
    return Finding(root, problem, (), needs_copy=True)


def unlogged(table: TableId) -> Finding:
    problem = (
        f"{table} is unlogged on the source, so its changes are not replicated:"
        " run ALTER TABLE ... SET LOGGED there"
    )
    return Finding(table, problem, (), needs_copy=True)


def replaced_on_destination(table: TableId) -> Finding:
    problem = (
        f"{table} was dropped and created again on the destination after its rows were copied, so they are"
        " missing there"
    )
    return Finding(table, problem, (), needs_copy=True)


def drift_error(
    migration: MigrationId,
    found: Sequence[Finding],
    cause: PgmigError | None = None,
    *,
    follow: bool = True,
) -> PgmigError:
    """SCHEMA_DRIFT with the names of the tables and what to do. cause: the error that stopped the applier.
    follow: the migration replicates changes; a plain clone copies all rows again by itself."""
    problems = "; ".join(one.problem for one in found[:LISTED])
    more = f"; and {len(found) - LISTED} more tables" if len(found) > LISTED else ""
    text = f"tables of the source have changed since they were copied: {problems}{more}"
    if cause is not None:
        text = f"{cause.message}; {text}"
    error = PgmigError(ErrorKind.SCHEMA_DRIFT, text, _hint(migration, found[:LISTED], follow=follow))
    if cause is not None:
        error.lsn, error.xid = cause.lsn, cause.xid
    return error


_MAY_BE_EMPTIED = (
    "where a statement cannot convert a value, delete the table's rows before: they are copied again"
)


def _hint(migration: MigrationId, found: Sequence[Finding], *, follow: bool) -> str:
    ordered = (*(one.first for one in found), *(one.statements for one in found))
    statements = list(dict.fromkeys(statement for some in ordered for statement in some))
    copied = [table for one in found if one.needs_copy for table in one.leaves or (one.table,)]
    again = list(dict.fromkeys(table.argument for table in copied if follow))
    steps = []
    if statements:
        steps.append(run_there("; ".join(statements)))
    if again:
        names = " ".join(map(shlex.quote, again))
        steps.append(f"copy the rows again with: pgmig-cli resync-table --id {migration} {names}")
    else:
        steps.append("continue")
    if any(one.needs_copy and one.statements and not one.absent for one in found):
        steps[-1] += f" ({_MAY_BE_EMPTIED})"
    return "; then ".join(steps)


def names_copied(tables: Sequence[TableId], routes: Sequence[Route]) -> tuple[TableId, ...]:
    """The names under which the tables are copied."""
    roots = {route.leaf: route.root for route in routes}
    return tuple(dict.fromkeys(roots.get(table, table) for table in tables))


async def absent(destination: Connection, tables: Sequence[TableId]) -> tuple[TableId, ...]:
    """Those of `tables` that do not exist on the destination."""
    there = await existing_tables(destination, tables)
    return tuple(table for table in tables if table not in there)
