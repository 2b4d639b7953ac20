"""The DDL that gives a destination table the columns that the source's table has now.

Types are compared by name and type modifier, because OIDs have no meaning on another server and schemas of
extensions may differ. The text of a default is compared only if it has changed on the source since the table
was recorded, because major versions print the same expression differently.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from psycopg import AsyncConnection, sql

from services.shared.model import ColumnIdentity, TableId, TableIdentity
from services.shared.pg.catalog.columns import GENERATED, IDENTITY, ColumnDefinition
from services.shared.pg.catalog.stored_text import literal, statement_text

SET_EXPRESSION_SINCE = 170000


Expression = tuple[str, str]
"""A generated column's name and expression."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a table's columns differ.

    structure, own: statements to run on the destination; `structure` alters the partitioned table that the
    table belongs to, `own` the table itself. old_rows_differ: both sides have a column that was added since
    the table was recorded, with different values in older rows.
    """

    structure: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    old_rows_differ: bool = False

    @property
    def statements(self) -> tuple[str, ...]:
        return self.structure + self.own


def compare(
    conn: AsyncConnection,
    before: TableIdentity | None,
    now: TableIdentity,
    here: Sequence[ColumnDefinition],
    there: Sequence[ColumnDefinition],
    *,
    root: TableId | None = None,
    constraints: bool = True,
    lax: bool = False,
    copied: bool = False,
    exact: bool = False,
    own_only: bool = False,
    set_by_root: Collection[Expression] = (),
) -> Comparison:
    """Compare the source's columns (here) with the destination's (there).

    before: the table as recorded. now: the table that has the columns `here`. root: the partitioned table
    that the destination's table belongs to. constraints=False: NOT NULL and defaults count only if they have
    changed since, because they are not complete before the end of phase indexes. lax: the destination may
    lack a NOT NULL, because it cannot have it before the changes that make it true are applied. copied: the
    destination's rows are replaced afterwards, so their values do not matter. exact: columns that only the
    destination has, and a different order of columns, are differences too; values may be lost, so the rows
    have to be copied afterwards. own_only: statements for the root are proposed otherwise. set_by_root: the
    expressions that these statements set, in all partitions. conn: to the destination, for its
    version and for quoting.
    """
    noted = {column.number: column for column in before.columns} if before else {}
    current = {column.number: column for column in now.columns}
    steps = _Steps({} if own_only else noted, here, there, exact=exact)
    structure: list[sql.Composable] = []
    own: list[sql.Composable] = []
    old_rows_differ = False
    for column in here:
        match = steps.found.get(column.name)
        if match is None:
            structure.append(_added(column))
            own += _default_of_added(column)
            continue
        old, new = noted.get(column.number), current.get(column.number)
        changed = _Changed(
            default=old is not None and (new is None or old.default != new.default),
            not_null=old is not None and old.not_null != column.not_null,
        )
        if lax and column.not_null:
            match = replace(match, not_null=True)
        retyped = copied and (root or now.table) == now.table and column.type_name != match.type_name
        if retyped:
            structure += _retyped(column, match)
            own += [_default(column)] if column.default else []
            continue
        structure += _restructured(column, match, changed, conn.info.server_version)
        own += _adjusted(column, match, changed, constraints=constraints)
        if own_only and (column.name, column.default) not in set_by_root:
            own += _own_expression(column, match, changed, conn.info.server_version)
        if before and column.number not in noted and not column.generated:
            old_rows_differ = old_rows_differ or column.missing != match.missing
    above = root or now.table
    statements = (
        []
        if own_only
        else [
            *_alter(
                above, [sql.SQL("DROP COLUMN {}").format(sql.Identifier(name)) for name in steps.dropped]
            ),
            *(_alter(above, [clause])[0] for clause in steps.renaming()),
            *_alter(above, structure),
        ]
    )
    return Comparison(
        tuple(statement_text(statement, conn) for statement in statements),
        tuple(statement_text(statement, conn) for statement in _alter(now.table, own)),
        old_rows_differ,
    )


def _alter(table: TableId, clauses: Sequence[sql.Composable]) -> list[sql.Composed]:
    if not clauses:
        return []
    name = sql.Identifier(table.schema, table.name)
    return [sql.SQL("ALTER TABLE {} {}").format(name, sql.SQL(", ").join(clauses))]


@dataclass(frozen=True, slots=True)
class _Changed:
    """What has changed in a column on the source since it was recorded."""

    default: bool
    not_null: bool


class _Steps:
    """Columns to drop and to rename on the destination, so that its column order also equals the source's.

    Columns are identified by their numbers, because a name may now belong to a different column. found: the
    destination's columns afterwards, by name.
    """

    def __init__(
        self,
        noted: Mapping[int, ColumnIdentity],
        here: Sequence[ColumnDefinition],
        there: Sequence[ColumnDefinition],
        *,
        exact: bool,
    ) -> None:
        self.dropped: list[str] = []
        self.renamed: list[tuple[str, str]] = []
        self.found = {column.name: column for column in there}
        names = [column.name for column in here]
        before = {number: column.name for number, column in noted.items()}
        unchanged = before == {column.number: column.name for column in here}
        if exact:
            self._make_exact(names)
            return
        if not before or unchanged or [name for name in self.found if name in names] == names:
            self._drop(name for name in before.values() if name not in names)
            return
        numbers = {column.number for column in here}
        self._drop(name for number, name in before.items() if number not in numbers)
        self._rename(
            [
                (before[column.number], column.name)
                for column in here
                if before.get(column.number, column.name) != column.name
                and before[column.number] in self.found
            ]
        )

    def _make_exact(self, names: Sequence[str]) -> None:
        """Drop columns that the source lacks, and every column after the first one that is out of order."""
        self._drop([name for name in self.found if name not in names])
        kept = 0
        for name, wanted in zip(self.found, names, strict=False):
            if name != wanted:
                break
            kept += 1
        self._drop(list(self.found)[kept:])

    def renaming(self) -> list[sql.Composed]:
        """One RENAME clause per statement, as ALTER TABLE requires."""
        rename = sql.SQL("RENAME COLUMN {} TO {}")
        return [rename.format(*map(sql.Identifier, pair)) for pair in self.renamed]

    def _drop(self, names: Iterable[str]) -> None:
        for name in names:
            if self.found.pop(name, None) is not None:
                self.dropped.append(name)

    def _rename(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Rename by way of a temporary name if another column still has the new name."""
        moved = []
        for number, (old, new) in enumerate(pairs):
            via = f"pgmig_renamed_{number}" if new in self.found else new
            self.renamed.append((old, via))
            moved.append((self.found.pop(old), new))
            if via != new:
                self.renamed.append((via, new))
        self.renamed.sort(key=lambda pair: pair[0].startswith("pgmig_renamed_"))  # new names are free by then
        self.found.update({new: replace(column, name=new) for column, new in moved})


def _added(column: ColumnDefinition) -> sql.Composable:
    """ADD COLUMN, such that existing rows get the source's value. NOT NULL is left out if existing rows may
    have no value until further changes are applied."""
    name = sql.Identifier(column.name)
    parts = [sql.SQL("ADD COLUMN"), name, sql.SQL(column.type_sql)]
    if column.collation:
        parts.append(sql.SQL("COLLATE {}").format(sql.Identifier(column.collation)))
    if column.generated:
        parts.append(sql.SQL(f"GENERATED ALWAYS AS ({column.default}) {GENERATED[column.generated]}"))
    elif column.identity:
        parts.append(sql.SQL(f"GENERATED {IDENTITY[column.identity]} AS IDENTITY"))
    elif column.missing is not None:
        parts.append(sql.SQL("DEFAULT {}").format(literal(column.missing)))
    if column.not_null and (column.identity or column.missing is not None):
        parts.append(sql.SQL("NOT NULL"))
    return sql.SQL(" ").join(parts)


def _default_of_added(column: ColumnDefinition) -> list[sql.Composable]:
    """The default for future rows. It needs a separate statement, because ALTER TABLE runs its clauses in its
    own order: these before ADD COLUMN."""
    if column.generated or column.identity or not (column.default or column.missing is not None):
        return []
    return [_default(column)]


def _default(column: ColumnDefinition) -> sql.Composable:
    name = sql.Identifier(column.name)
    if not column.default:
        return sql.SQL("ALTER COLUMN {} DROP DEFAULT").format(name)
    return sql.SQL("ALTER COLUMN {} SET DEFAULT {}").format(name, sql.SQL(column.default))


def _retyped(column: ColumnDefinition, match: ColumnDefinition) -> Iterator[sql.Composable]:
    """Change the type by way of text, because there may be no cast. Other tables may inherit the column, so
    its values are kept if possible."""
    name = sql.Identifier(column.name)
    if match.default and not match.generated:
        yield sql.SQL("ALTER COLUMN {} DROP DEFAULT").format(name)
    parts: list[sql.Composable] = [sql.SQL("ALTER COLUMN"), name, sql.SQL("TYPE"), sql.SQL(column.type_sql)]
    if column.collation:
        parts.append(sql.SQL("COLLATE {}").format(sql.Identifier(column.collation)))
    text = sql.SQL("{}::text").format(name)
    if "." in match.type_sql:  # not a built-in type: its owner may have defined a cast
        printed = "CASE WHEN pg_catalog.num_nulls({0}) = 0 THEN pg_catalog.format('%s', {0}) END"
        text = sql.SQL(printed).format(name)
    parts.append(sql.SQL("USING ({})::{}").format(text, sql.SQL(column.type_sql)))
    yield sql.SQL(" ").join(parts)


def _restructured(
    column: ColumnDefinition, match: ColumnDefinition, changed: _Changed, version: int
) -> Iterator[sql.Composable]:
    """Change the type or the expression, which partitions inherit from their root."""
    name = sql.Identifier(column.name)
    types = [(one.type_name, one.typmod, one.collation) for one in (column, match)]
    if types[0] != types[1]:
        declared = sql.SQL(column.type_sql)
        parts: list[sql.Composable] = [sql.SQL("ALTER COLUMN"), name, sql.SQL("TYPE"), declared]
        if column.collation:
            parts.append(sql.SQL("COLLATE {}").format(sql.Identifier(column.collation)))
        yield sql.SQL(" ").join(parts)
    if column.generated == match.generated:
        if not (column.generated and changed.default and column.default != match.default):
            return
        if version >= SET_EXPRESSION_SINCE:
            yield sql.SQL("ALTER COLUMN {} SET EXPRESSION AS ({})").format(name, sql.SQL(column.default))
            return
    elif match.generated and not column.generated:
        yield sql.SQL("ALTER COLUMN {} DROP EXPRESSION").format(name)
        return
    yield sql.SQL("DROP COLUMN {}").format(name)
    yield _added(column)


def _own_expression(
    column: ColumnDefinition, match: ColumnDefinition, changed: _Changed, version: int
) -> Iterator[sql.Composable]:
    """Change the expression of one partition, which can differ from that of its root."""
    same_kind = column.generated and column.generated == match.generated
    if same_kind and changed.default and column.default != match.default and version >= SET_EXPRESSION_SINCE:
        name = sql.Identifier(column.name)
        yield sql.SQL("ALTER COLUMN {} SET EXPRESSION AS ({})").format(name, sql.SQL(column.default))


def expressions_set(
    here: Sequence[ColumnDefinition], there: Sequence[ColumnDefinition]
) -> frozenset[Expression]:
    """The expressions that statements for this partitioned table set: those that differ."""
    known = {(column.name, column.default) for column in there}
    found = {(column.name, column.default) for column in here if column.generated}
    return frozenset(found - known)


def _adjusted(
    column: ColumnDefinition, match: ColumnDefinition, changed: _Changed, *, constraints: bool
) -> Iterator[sql.Composable]:
    """Change what a partition can have independently of its root."""
    name = sql.Identifier(column.name)
    if constraints and column.identity != match.identity:
        yield _identity(column, match)
    if (constraints or changed.not_null) and column.not_null != match.not_null:
        change = "SET" if column.not_null else "DROP"
        yield sql.SQL(f"ALTER COLUMN {{}} {change} NOT NULL").format(name)
    if column.generated or match.generated:
        return
    one_sided = constraints and bool(column.default) != bool(match.default)
    if one_sided or (changed.default and column.default != match.default):
        yield _default(column)


def _identity(column: ColumnDefinition, match: ColumnDefinition) -> sql.Composable:
    name = sql.Identifier(column.name)
    if not column.identity:
        return sql.SQL("ALTER COLUMN {} DROP IDENTITY").format(name)
    change = "SET" if match.identity else "ADD"
    return sql.SQL(f"ALTER COLUMN {{}} {change} GENERATED {IDENTITY[column.identity]}{{}}").format(
        name, sql.SQL("" if match.identity else " AS IDENTITY")
    )


def drop_table(conn: AsyncConnection, table: TableId) -> tuple[str, ...]:
    """DDL for the destination."""
    statement = sql.SQL("DROP TABLE {}").format(sql.Identifier(table.schema, table.name))
    return (statement.as_string(conn),)


def rename_table(conn: AsyncConnection, table: TableId, renamed: TableId) -> tuple[str, ...]:
    """DDL for the destination: another name, another schema, or both."""
    statements = []
    if renamed.name != table.name:
        rename = sql.SQL("ALTER TABLE {} RENAME TO {}")
        names = sql.Identifier(table.schema, table.name), sql.Identifier(renamed.name)
        statements.append(rename.format(*names))
    if renamed.schema != table.schema:
        statements.append(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(renamed.schema)))
        move = sql.SQL("ALTER TABLE {} SET SCHEMA {}")
        names = sql.Identifier(table.schema, renamed.name), sql.Identifier(renamed.schema)
        statements.append(move.format(*names))
    return tuple(statement.as_string(conn) for statement in statements)
