"""Compares two databases: every row, every sequence, every definition.

A table's rows are a multiset (duplicates count, order does not), each row taken as the text of all
its columns. Both servers fold it into 1,024 buckets, each with its count and the sums of two
independently seeded 64-bit hashes: each row and each duplicate changes these 128 bits. Buckets that
differ, and all rows of small tables, are then fetched and compared as they are, which also names
the rows. The servers work at the same time; a million rows take a few seconds.

The hashes are those of hash partitioning (hashtextextended), which are the same in all major versions that
have it. With a server before 11 the halves of an MD5 are used instead. Servers before 12 write floating-point
numbers in another way than later ones. With such a server, texts have 15 digits, and each column of such a
type is compared by its bytes, too.

Data in materialized views is not compared: they are refreshed, not copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import LiteralString, Self

import psycopg
from psycopg import sql

from tests.support.data.catalog import DEFINITIONS, SEQUENCES, TABLES, USER_SCHEMAS
from tests.support.servers.door import reopen

Table = tuple[str, str]
Buckets = dict[int, tuple[int, int, int]]

_BUCKETS = 1024
_SHOWN_BUCKETS = 4
_SHOWN_ROWS = 5
_SHOWN_CHARS = 300
_SMALL_ROWS = 20_000

_SETTINGS = (
    "-c TimeZone=UTC -c DateStyle=ISO,MDY -c IntervalStyle=postgres -c extra_float_digits=3 "
    "-c bytea_output=hex -c search_path= -c row_security=off -c statement_timeout=0 "
    "-c default_transaction_read_only=on -c client_encoding=UTF8 "
    "-c lc_monetary=C -c lc_numeric=C"
)

# OFFSET 0 keeps each row's text, and each hash, from being computed twice.
_HASHED: LiteralString = """
    SELECT r, {a} AS a, {b} AS b
    FROM (SELECT {row} AS r FROM {table} AS pgmig_row OFFSET 0) AS texts OFFSET 0"""
_HASHES: tuple[LiteralString, LiteralString] = ("hashtextextended(r, 0)", "hashtextextended(r, 7919)")
_HASHES_SINCE = 110000
_HALVES: tuple[LiteralString, LiteralString] = (
    "('x' || left(md5(r), 16))::bit(64)::bigint",
    "('x' || right(md5(r), 16))::bit(64)::bigint",
)
_SHORTEST_FLOATS_SINCE = 120000
_TERSE_VIEWS_SINCE = 160000
"""Earlier servers write the table of each column of a view; later ones only where it is needed."""
_FLOATS: LiteralString = """
    SELECT a.attname FROM pg_attribute a
    WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped
          AND a.atttypid IN ('real'::regtype, 'double precision'::regtype) ORDER BY a.attname"""
_FINGERPRINT: LiteralString = (
    "SELECT (a & {mask})::int, count(*), sum(a), sum(b) FROM (" + _HASHED + ") AS hashed GROUP BY 1"
)
_ROWS: LiteralString = "SELECT r FROM (" + _HASHED + ") AS hashed WHERE a & {mask} = ANY(%s)"


def compare_databases(
    source_uri: str, dest_uri: str, *, sequences: bool = True, definitions: bool = True
) -> list[str]:
    """All differences, one sentence each; none if the databases are equal.

    Schemas pgmig, information_schema and pg_* are left out. sequences, definitions: whether these
    are compared, too; not useful while the destination still replicates. Use roles that may read all.
    A source that a switchover has closed is opened again.
    """
    reopen(source_uri)
    with ExitStack() as stack:
        sides = [stack.enter_context(_session(uri)) for uri in (source_uri, dest_uri)]
        pool = stack.enter_context(ThreadPoolExecutor(2, thread_name_prefix="compare"))
        differences = _compare_rows(pool, [_Side.of(one, sides) for one in sides])
        if sequences:
            values = pool.map(_sequence_values, sides)
            differences += _pair_differences("sequence value of", *values)
        if definitions:
            for aspect, query in DEFINITIONS.items():
                ours, theirs = pool.map(_pairs, sides, [query, query])
                if aspect == "view" and min(one.info.server_version for one in sides) < _TERSE_VIEWS_SINCE:
                    ours, theirs = _names_alone(ours), _names_alone(theirs)
                differences += _pair_differences(aspect, ours, theirs)
    return differences


def compare_rows(source_uri: str, dest_uri: str) -> list[str]:
    """Differences between the rows of all tables only."""
    return compare_databases(source_uri, dest_uri, sequences=False, definitions=False)


@contextmanager
def _session(uri: str) -> Iterator[psycopg.Connection]:
    """A read-only transaction with one snapshot for all queries."""
    with psycopg.connect(uri, options=_SETTINGS, prepare_threshold=None) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        connection.execute("SELECT set_config(name, 'off', false) FROM pg_settings WHERE name = 'jit'")
        yield connection


@dataclass(frozen=True, slots=True)
class _Side:
    """One database, and how both are read. hashes: of a row's text `r`, in SQL."""

    connection: psycopg.Connection
    hashes: tuple[LiteralString, LiteralString]
    float_bytes: bool

    @classmethod
    def of(cls, connection: psycopg.Connection, both: Sequence[psycopg.Connection]) -> Self:
        older = min(one.info.server_version for one in both)
        float_bytes = older < _SHORTEST_FLOATS_SINCE
        if float_bytes:
            connection.execute("SET extra_float_digits = 0")
        return cls(connection, _HASHES if older >= _HASHES_SINCE else _HALVES, float_bytes)

    def hashed(self, query: LiteralString, table: Table) -> sql.Composed:
        a, b = map(sql.SQL, self.hashes)
        mask = sql.Literal(_BUCKETS - 1)
        return sql.SQL(query).format(table=sql.Identifier(*table), row=self._row(table), a=a, b=b, mask=mask)

    def _row(self, table: Table) -> sql.Composable:
        text = sql.SQL("pgmig_row::text")
        if not self.float_bytes:
            return text
        name = sql.Identifier(*table).as_string(self.connection)
        floats = [row[0] for row in self.connection.execute(_FLOATS, [name])]
        sends = [sql.SQL("float8send(pgmig_row.{})").format(sql.Identifier(column)) for column in floats]
        return sql.SQL("concat_ws(' ', {})").format(sql.SQL(", ").join([text, *sends]))


def _compare_rows(pool: ThreadPoolExecutor, sides: Sequence[_Side]) -> list[str]:
    at_source, at_dest = pool.map(_fingerprints, sides)
    differences = [
        f"table {'.'.join(table)} exists only at the {'source' if table in at_source else 'destination'}"
        for table in sorted(at_source.keys() ^ at_dest.keys())
    ]
    for table in sorted(at_source.keys() & at_dest.keys()):
        differences += _compare_table(pool, sides, table, at_source[table], at_dest[table])
    return differences


def _compare_table(
    pool: ThreadPoolExecutor,
    sides: Sequence[_Side],
    table: Table,
    ours: Buckets,
    theirs: Buckets,
) -> list[str]:
    differing = sorted(b for b in ours.keys() | theirs.keys() if ours.get(b) != theirs.get(b))
    counts = [sum(bucket[0] for bucket in side.values()) for side in (ours, theirs)]
    small = max(counts) <= _SMALL_ROWS
    wanted = sorted(ours.keys() | theirs.keys()) if small else differing[:_SHOWN_BUCKETS]
    if not wanted:
        return []
    at_source, at_dest = pool.map(_rows, sides, [table, table], [wanted, wanted])
    if not differing and at_source == at_dest:
        return []
    text = f"table {'.'.join(table)} differs: {counts[0]} rows at the source, {counts[1]} at the destination"
    for place, surplus in (("source", at_source - at_dest), ("destination", at_dest - at_source)):
        for row, times in sorted(surplus.items())[:_SHOWN_ROWS]:
            text += f"\n  only at the {place}{f' ({times} times)' if times > 1 else ''}: {row[:_SHOWN_CHARS]}"
    return [text]


def _fingerprints(side: _Side) -> dict[Table, Buckets]:
    return {table: _fingerprint(side, table) for table in _names(side.connection, TABLES)}


def _fingerprint(side: _Side, table: Table) -> Buckets:
    found = side.connection.execute(side.hashed(_FINGERPRINT, table))
    return {bucket: (count, int(a), int(b)) for bucket, count, a, b in found}


def _rows(side: _Side, table: Table, buckets: list[int]) -> Counter[str]:
    return Counter(row[0] for row in side.connection.execute(side.hashed(_ROWS, table), [buckets]))


def _sequence_values(connection: psycopg.Connection) -> set[tuple[str, str]]:
    reads = [
        sql.SQL("SELECT {name}, concat_ws(' ', last_value, 'called', is_called) FROM {sequence}").format(
            name=sql.Literal(".".join(name)), sequence=sql.Identifier(*name)
        )
        for name in _names(connection, SEQUENCES)
    ]
    return set(connection.execute(sql.SQL(" UNION ALL ").join(reads))) if reads else set()


def _names(connection: psycopg.Connection, query: LiteralString) -> list[Table]:
    return list(connection.execute(_of_user(query)))


def _pairs(connection: psycopg.Connection, query: LiteralString) -> set[tuple[str, str]]:
    return set(connection.execute(_of_user(query)))


def _names_alone(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return {(name, "there") for name, _ in pairs}


def _of_user(query: LiteralString) -> sql.Composed:
    return sql.SQL(query).format(user=sql.SQL(USER_SCHEMAS))


def _pair_differences(aspect: str, ours: set[tuple[str, str]], theirs: set[tuple[str, str]]) -> list[str]:
    at_source, at_dest = dict(ours), dict(theirs)
    return [
        f"{aspect} {name} is {_shown(at_source.get(name))} at the source, "
        f"{_shown(at_dest.get(name))} at the destination"
        for name in sorted({name for name, _ in ours ^ theirs})
    ]


def _shown(definition: str | None) -> str:
    return "missing" if definition is None else f"[{definition}]"
