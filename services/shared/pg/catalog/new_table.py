"""The DDL for a table that exists only on the source, generated from the source's catalogs.

The DDL contains everything that rows and changes need: schema, columns with their defaults, the sequences
owned by them, keys, CHECK constraints, indexes and the replica identity. The operator creates foreign keys,
triggers, privileges and comments: they may refer to objects that do not exist on the destination yet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from psycopg import AsyncConnection, sql

from services.shared.model import TableId
from services.shared.pg.catalog.columns import ColumnDefinition, defined, read_columns
from services.shared.pg.catalog.stored_text import decoded, encoding_to_read, statement_text
from services.shared.pg.session.connection import translated

_RELATION = """
SELECT c.oid,
       pg_catalog.convert_to(CASE WHEN c.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(c.oid) END, %s),
       c.relpersistence = 'u', c.relreplident::text
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s
"""
_PARENTS = """
SELECT n.nspname, c.relname
  FROM pg_catalog.pg_inherits i
  JOIN pg_catalog.pg_class c ON c.oid = i.inhparent
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE i.inhrelid = %s ORDER BY i.inhseqno
"""
_CONSTRAINTS = """
SELECT conname, pg_catalog.convert_to(pg_catalog.pg_get_constraintdef(oid), %s), contype <> 'c'
  FROM pg_catalog.pg_constraint
 WHERE conrelid = %s AND contype IN ('p', 'u', 'x', 'c') AND conislocal
 ORDER BY contype <> 'p', conname
"""
_INDEXES = """
SELECT c.relname, pg_catalog.convert_to(pg_catalog.pg_get_indexdef(i.indexrelid), given.encoding),
       i.indisreplident,
       pg_catalog.convert_to(pg_catalog.format('CREATE %%sINDEX %%I ON ',
                         CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, c.relname), given.encoding)
  FROM (SELECT %s::name AS encoding) given
 CROSS JOIN pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = %s
   AND (i.indisreplident OR NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k
                                         WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')))
 ORDER BY 1
"""
_SEQUENCES = """
SELECT n.nspname, c.relname, a.attname, pg_catalog.format_type(s.seqtypid, NULL)
  FROM pg_catalog.pg_depend d
  JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind = 'S'
  JOIN pg_catalog.pg_sequence s ON s.seqrelid = c.oid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
 WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
   AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = %s AND d.deptype = 'a'
 ORDER BY 1, 2
"""


_RELATIONS = """
SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s
"""
_LONGEST_NAME = 63
"""Bytes."""


@dataclass(frozen=True, slots=True)
class NewTable:
    """statements: for the destination; empty if the source has no such table. renamed: names of indexes and
    of constraints with an index that another relation of the destination has, and the names used instead."""

    statements: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)


async def new_table(
    source: AsyncConnection, destination: AsyncConnection, table: TableId, given: Collection[str] = ()
) -> NewTable:
    """given: names of relations that other proposed statements use."""
    with translated(f"reading the definition of {table}"):
        encoding = encoding_to_read(source)
        row = await (await source.execute(_RELATION, [encoding, table.schema, table.name])).fetchone()
        if row is None:
            return NewTable()
        oid, key, unlogged, identity = row
        parents, sequences = [
            await (await source.execute(query, [oid])).fetchall() for query in (_PARENTS, _SEQUENCES)
        ]
        constraints, indexes = [
            [
                [decoded(one, encoding) if isinstance(one, bytes) else one for one in row]
                for row in await (await source.execute(query, [encoding, oid])).fetchall()
            ]
            for query in (_CONSTRAINTS, _INDEXES)
        ]
        ours = {row[0] for row in await (await source.execute(_RELATIONS, [table.schema])).fetchall()}
        theirs = {row[0] for row in await (await destination.execute(_RELATIONS, [table.schema])).fetchall()}
    keys = [constraint for constraint, _, indexed in constraints if indexed]
    renamed = _free_names(dict.fromkeys(keys + [index for index, *_ in indexes]), theirs | set(given), ours)
    columns = (await read_columns(source, [table]))[table]
    name = sql.Identifier(table.schema, table.name)
    definitions = [
        (str(renamed.get(one, one) if indexed else one), text) for one, text, indexed in constraints
    ]
    made = _created(name, columns, definitions, unlogged=unlogged)
    if parents:
        made += sql.SQL(" INHERITS ({})").format(sql.SQL(", ").join(sql.Identifier(*one) for one in parents))
    if key:
        made += sql.SQL(" PARTITION BY {}").format(sql.SQL(decoded(key, encoding)))
    statements: list[sql.Composable] = [
        sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(table.schema)),
        *(
            sql.SQL("CREATE SEQUENCE {} AS {}").format(sql.Identifier(schema, sequence), sql.SQL(kind))
            for schema, sequence, _, kind in sequences
        ),
        made,
        *(
            sql.SQL("ALTER SEQUENCE {} OWNED BY {}").format(
                sql.Identifier(schema, sequence), sql.Identifier(table.schema, table.name, column)
            )
            for schema, sequence, column, _ in sequences
        ),
    ]
    for index, text, _, head in indexes:
        if index not in keys:
            statements.append(_index(text, head, renamed.get(index)))
    statements += _identity(name, identity, [str(renamed.get(i, i)) for i, _, chosen, _ in indexes if chosen])
    return NewTable(tuple(statement_text(statement, destination) for statement in statements), renamed)


def _free_names(names: Iterable[str], taken: Collection[str], ours: Collection[str]) -> dict[str, str]:
    """Other names for those of `names` that are in use. ours: names that are not used as other names."""
    used = {*taken, *ours}
    renamed: dict[str, str] = {}
    for name in names:
        if name not in taken:
            continue
        for number in count(1):
            end = f"_{number}"
            free = name.encode()[: _LONGEST_NAME - len(end)].decode(errors="ignore") + end
            if free not in used:
                used.add(free)
                renamed[name] = free
                break
    return renamed


def _index(text: str, head: str, renamed: str | None) -> sql.Composable:
    """CREATE INDEX, perhaps with another name. head: how the server begins the statement."""
    if renamed is None or not text.startswith(head):
        return sql.SQL(text)
    kind = "UNIQUE " if head.startswith("CREATE UNIQUE ") else ""
    create = sql.SQL(f"CREATE {kind}INDEX {{}} ON ").format(sql.Identifier(renamed))
    return create + sql.SQL(text.removeprefix(head))


def _created(
    name: sql.Identifier,
    columns: Sequence[ColumnDefinition],
    constraints: Sequence[tuple[str, str]],
    *,
    unlogged: bool,
) -> sql.Composed:
    parts: list[sql.Composable] = [defined(column) for column in columns]
    parts += [
        sql.SQL("CONSTRAINT {} {}").format(sql.Identifier(constraint), sql.SQL(text))
        for constraint, text in constraints
    ]
    create = sql.SQL("CREATE UNLOGGED TABLE" if unlogged else "CREATE TABLE")
    return sql.SQL("{} {} ({})").format(create, name, sql.SQL(", ").join(parts))


def _identity(name: sql.Identifier, identity: str, index: Sequence[str]) -> list[sql.Composable]:
    """Statements that set a replica identity other than the default."""
    alter = sql.SQL("ALTER TABLE {} REPLICA IDENTITY {}")
    if identity == "i" and index:
        using = sql.SQL("USING INDEX {}").format(sql.Identifier(index[0]))
        return [alter.format(name, using)]
    return [alter.format(name, sql.SQL("FULL"))] if identity == "f" else []
