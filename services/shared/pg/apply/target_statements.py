"""The text of the statements on a destination table.

The expressions for values and comparisons depend on the columns' types. See `target_table` for what is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from psycopg import sql

from services.shared.model import TableId
from services.shared.pg.apply.long_values import LongValue, joined
from services.shared.pgoutput import Relation

# Compare a column with a value: as text, byte for byte, and NULL is equal only to NULL. `format` calls the
# type's output function and no cast.
_SAME_BY_CAST = '{}::text COLLATE pg_catalog."C" IS NOT DISTINCT FROM (CAST({} AS {}))::text'
_SAME_BY_OUTPUT = (
    "(pg_catalog.num_nulls({0}), pg_catalog.format('%s', {0}) COLLATE pg_catalog.\"C\") ="
    " (SELECT pg_catalog.num_nulls(one.x), pg_catalog.format('%s', one.x)"
    " FROM (SELECT CAST({1} AS {2}) AS x) AS one)"
)

# Text as a value of a type. The second form calls the type's input function, as a parameter does: a cast from
# text that the type's owner has defined would run with our rights.
_TYPED_BY_CAST = "CAST({} AS {})"
_TYPED_BY_INPUT = (
    "(SELECT typed.v FROM pg_catalog.json_to_record(pg_catalog.json_build_object('v', {})) AS typed (v {}))"
)


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """type_sql: the declared type. plain_sql: the type without length and domain. If a value is cast to it
    and then assigned, it is refused if it does not fit, but a cast to the declared type would truncate it.
    element_sql: the type as an array's element; None: send it as text. primary: part of the primary key,
    unless that is deferrable, because then rows may share a key for a time. equals: the operator, with its
    schema if it belongs to an extension, because search_path does not contain that schema. generated:
    computed on the destination; the source's value is only used to find rows. cast_to_text, cast_from_text:
    the cast is built in (from text: to plain_sql). For another type its owner may have defined a cast, which
    would run with our rights."""

    name: str
    type_sql: str
    plain_sql: str
    element_sql: str | None
    identity_always: bool
    primary: bool
    equals: str = "="
    generated: bool = False
    cast_to_text: bool = False
    cast_from_text: bool = False

    def typed(self, text: sql.Composable, type_sql: str) -> sql.Composable:
        """An expression of type text, converted to `type_sql`, which is the column's type or plain_sql."""
        form = _TYPED_BY_CAST if self.cast_from_text else _TYPED_BY_INPUT
        return sql.SQL(form).format(text, sql.SQL(type_sql))


Shape = tuple[str, tuple[int, ...]]
"""Shape of a single-row statement: its kind, and the columns that it sets if these can vary."""
Given = Callable[[int, int], sql.Composable]
"""Gives a statement's parameter as an expression, from the parameter's index and its column's."""


@dataclass(slots=True, eq=False)
class TargetStatements:
    """The table, and the text of each statement. It is built once for each shape.

    where: indexes of the columns that find a row; empty if rows have no key. row_by_row: changes must be
    applied one at a time. Either the destination has triggers that fire for replicated changes and must see
    each one, or its rows may share a key, so that the row count of a set would not distinguish a missing row
    from an additional one. further: columns that only the destination has and that can be written.
    partitioned: on the destination. encoding: of the values, as from `stored_encoding`. inserted: indexes of
    the columns that an INSERT sets.
    """

    relation: Relation
    columns: tuple[TargetColumn, ...]  # in the relation's order
    where: tuple[int, ...]
    row_by_row: bool
    further: tuple[str, ...] = ()
    partitioned: bool = False
    encoding: str = ""

    _identities: tuple[int, ...] = field(init=False)
    inserted: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._identities = tuple(i for i, column in enumerate(self.columns) if column.identity_always)
        self.inserted = tuple(i for i, column in enumerate(self.columns) if not column.generated)

    @property
    def table(self) -> TableId:
        return self.relation.table

    @property
    def rows_of(self) -> sql.Composable:
        """As `_rows_of`, for other statements about these rows. The next four are too: as `s.v0`, `s.v1` and
        so on, the key's values are the rows of `unnest({key_arrays})`."""
        return self._rows_of()

    @property
    def quoted_name(self) -> str:
        return self._name().as_string(None)

    def key_arrays(self) -> sql.Composable:
        return self._arrays_of(self.where)

    def key_join(self) -> sql.Composable:
        """Joins `s` with the row `t`."""
        return self._join()

    def key_text(self) -> sql.Composable:
        """The key as in `pgmig.deleted_row`. `format` calls the type's output function and no cast."""
        texts = [
            sql.SQL("pg_catalog.format('%s', {})").format(self._element(i, n))
            for n, i in enumerate(self.where)
        ]
        return sql.SQL("ARRAY[{}]::pg_catalog.text[]").format(comma_separated(texts))

    def _given(self, long: Sequence[LongValue]) -> Given:
        """The expressions for a statement's parameters, some of which represent long values."""
        found = {value.parameter: value for value in long}

        def given(n: int, i: int) -> sql.Composable:
            if n not in found:
                return parameter(n)
            value, column = joined(parameter(n), found[n]), self.columns[i]
            return value if found[n].bytea else column.typed(value, column.element_sql or column.plain_sql)

        return given

    def _name(self) -> sql.Identifier:
        return sql.Identifier(self.table.schema, self.table.name)

    def _rows_of(self) -> sql.Composable:
        """The table without child tables. A partitioned table has rows only in its partitions."""
        return self._name() if self.partitioned else sql.SQL("ONLY {}").format(self._name())

    def _column(self, i: int) -> sql.Identifier:
        return sql.Identifier(self.columns[i].name)

    def _insert_sql(self, given: Given) -> sql.Composable:
        if not self.inserted:
            return sql.SQL("INSERT INTO {} DEFAULT VALUES").format(self._name())
        values = comma_separated(given(n, i) for n, i in enumerate(self.inserted))
        return sql.SQL("{} VALUES ({})").format(self._insert_head(), values)

    def _insert_head(self) -> sql.Composable:
        names = comma_separated(self._column(i) for i in self.inserted)
        return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE").format(self._name(), names)

    def _update_sql(self, touched: tuple[int, ...], where: tuple[int, ...], given: Given) -> sql.Composable:
        if not self.inserted:  # all rows are equal and do not change: one must exist
            return sql.SQL("SELECT FROM {} LIMIT 1").format(self._rows_of())
        assignments = [sql.SQL("{} = {}").format(self._column(i), given(n, i)) for n, i in enumerate(touched)]
        return sql.SQL("UPDATE {} t SET {} WHERE {}").format(
            self._rows_of(),
            comma_separated(assignments or [self._no_change()]),
            self._condition(where, len(touched), given),
        )

    def _replace_sql(self, touched: tuple[int, ...], where: tuple[int, ...], given: Given) -> sql.Composable:
        """An UPDATE that sets GENERATED ALWAYS identities, which SQL allows only in an INSERT. So the row is
        deleted and inserted again. Values that were not sent are kept."""
        kept = [self.columns[i].name for i in self.inserted if i not in touched]
        kept += self.further
        names = [self._column(i) for i in touched] + [sql.Identifier(name) for name in kept]
        values = [
            sql.SQL("CAST({} AS {})").format(given(n, i), sql.SQL(self.columns[i].plain_sql))
            for n, i in enumerate(touched)
        ]
        values += [sql.SQL("gone.{}").format(sql.Identifier(name)) for name in kept]
        return sql.SQL(
            "WITH gone AS (DELETE FROM {} WHERE {} RETURNING *)"
            " INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM gone"
        ).format(
            self._rows_of(),
            self._condition(where, len(touched), given),
            self._name(),
            comma_separated(names),
            comma_separated(values),
        )

    def _delete_sql(self, where: tuple[int, ...], given: Given) -> sql.Composable:
        return sql.SQL("DELETE FROM {} WHERE {}").format(self._rows_of(), self._condition(where, 0, given))

    def _condition(self, where: tuple[int, ...], first: int, given: Given) -> sql.Composable:
        if self.where:
            pairs = [
                sql.SQL("{} {} CAST({} AS {})").format(
                    self._key_column(i), self._equals(i), given(first + n, i), self._key_type(i)
                )
                for n, i in enumerate(where)
            ]
            return sql.SQL(" AND ").join(pairs)
        same = sql.SQL(" AND ").join(
            sql.SQL(_SAME_BY_CAST if self.columns[i].cast_to_text else _SAME_BY_OUTPUT).format(
                self._column(i), given(first + n, i), sql.SQL(self.columns[i].type_sql)
            )
            for n, i in enumerate(where)
        )
        if not where:  # no columns: any row is right
            same = sql.Composed([sql.SQL("true")])
        if self.partitioned:  # a ctid is unique only within one partition
            found = "(tableoid, ctid) = (SELECT tableoid, ctid FROM {} WHERE {} LIMIT 1)"
        else:
            found = "ctid = (SELECT ctid FROM {} WHERE {} LIMIT 1)"
        return sql.SQL(found).format(self._rows_of(), same)

    def _insert_many_sql(self) -> sql.Composable:
        values = comma_separated(self._element(i, n) for n, i in enumerate(self.inserted))
        return sql.SQL("{} SELECT {} FROM {}").format(
            self._insert_head(), values, self._unnest(self.inserted)
        )

    def _update_many_sql(self, touched: tuple[int, ...]) -> sql.Composable:
        sent = (*self.where, *touched, *self._free_identities)
        elements = {i: self._element(i, n) for n, i in enumerate(sent)}
        assignments = [sql.SQL("{} = {}").format(self._column(i), elements[i]) for i in touched]
        # If an identity is to change, no row matches. Then each row is written separately.
        same = [sql.SQL(" AND t.{} = {}").format(self._column(i), elements[i]) for i in self._free_identities]
        return sql.SQL("UPDATE {} t SET {} FROM {} WHERE {}{}").format(
            self._rows_of(),
            comma_separated(assignments or [self._no_change()]),
            self._unnest(sent),
            self._join(),
            sql.Composed(same),
        )

    @property
    def _free_identities(self) -> tuple[int, ...]:
        return tuple(i for i in self._identities if i not in self.where)

    def _no_change(self) -> sql.Composable:
        """An UPDATE without new values must still find its row."""
        column = next(
            (one for one in self.columns if not (one.identity_always or one.generated)), self.columns[0]
        )
        return sql.SQL("{0} = t.{0}").format(sql.Identifier(column.name))

    def _delete_many_sql(self) -> sql.Composable:
        return sql.SQL("DELETE FROM {} t USING {} WHERE {}").format(
            self._rows_of(), self._unnest(self.where), self._join()
        )

    def _unnest(self, columns: Sequence[int]) -> sql.Composable:
        names = comma_separated(sql.SQL(f"v{n}") for n in range(len(columns)))
        # Not qualified: several arrays in one call need special syntax, and search_path is empty.
        return sql.SQL("unnest({}) AS s({})").format(self._arrays_of(columns), names)

    def _arrays_of(self, columns: Sequence[int]) -> sql.Composable:
        return comma_separated(
            sql.SQL("{}::{}[]").format(parameter(n), sql.SQL(self.columns[i].element_sql or "text"))
            for n, i in enumerate(columns)
        )

    def _element(self, i: int, n: int) -> sql.Composable:
        value, column = sql.SQL(f"s.v{n}"), self.columns[i]
        return value if column.element_sql is not None else column.typed(value, column.plain_sql)

    def _join(self) -> sql.Composable:
        return sql.SQL(" AND ").join(
            sql.SQL("{} {} {}").format(self._key_column(i, "t."), self._equals(i), self._element(i, n))
            for n, i in enumerate(self.where)
        )

    def _equals(self, i: int) -> sql.Composable:
        return sql.SQL(self.columns[i].equals)

    def _key_type(self, i: int) -> sql.Composable:
        """The type for a key value that is sent alone: in `composite = $1` the type would be unknown."""
        return sql.SQL(self.columns[i].element_sql or self.columns[i].plain_sql)

    def _key_column(self, i: int, prefix: str = "") -> sql.Composable:
        """A key's column as the base type of its domain, because a domain over an enum has no operators of
        its own. An index can still be used."""
        column = sql.SQL(prefix) + self._column(i)
        if self.columns[i].element_sql is not None:
            return column
        return sql.SQL("CAST({} AS {})").format(column, sql.SQL(self.columns[i].plain_sql))


def parameter(n: int) -> sql.SQL:
    return sql.SQL(f"${n + 1}")


def comma_separated(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)
