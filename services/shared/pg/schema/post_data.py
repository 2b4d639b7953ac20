"""The post-data section as a plan: what may be built when, by whom, beside what.

The archive names each entry's kind. The plan divides the entries by what they need (`plan`; pure, from
the entries and the destination's relations). Where one statement becomes two, its tokens are looked
at, never its text:

tables   of one table, whose rows are there: first its indexes, each in a session of its own and at
         the same time as the others (CREATE INDEX takes a SHARE lock, which goes with itself); then
         what locks the table and takes no time: constraints that adopt a finished index, replica
         identity, CLUSTER ON, statistics. Primary keys and unique constraints are therefore built
         as unique indexes. An exclusion constraint has no such form and is built here as it stands.
parents  of partitioned tables: no rows of their own, but they attach what their partitions have.
keys     foreign keys, NOT VALID, which only looks at the catalog.
checks   their validation, which reads two tables and blocks no one; where a server has no NOT
         VALID for them (partitioned tables before 18) the key is added as it stands.
rest     everything else, in pg_restore's order.

From `keys` on tables meet: their rows must be of one moment. `BuildingSession` runs one piece together
with the note that it is done, so whatever is killed, what is noted is there and nothing else is.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, PgmigError, TableId
from services.shared.pg.bookkeeping.schema import step_note
from services.shared.pg.schema.archive_sql import RestoreEntry, Script
from services.shared.pg.schema.dump import naming, run_script
from services.shared.pg.schema.lexer import Token, source, statements
from services.shared.pg.schema.table_ddl import (
    UniqueKey,
    calls_functions,
    constraint_table,
    foreign_key,
    index_table,
    is_unchecked,
    statistics_table,
    unique_key,
)
from services.shared.pg.session.connection import connection, translated
from services.shared.pg.session.event_triggers import silence
from services.shared.pg.session.sql_files import load_sql

KEYS_OF_PARTITIONED_SINCE = 180000
"""server_version_num from which a foreign key of or to a partitioned table may be NOT VALID."""

ANALYZE_ONLY_SINCE = 180000
"""Before, ANALYZE of a partitioned table takes all its partitions along."""

_COUNTED = frozenset({"INDEX", "CONSTRAINT", "FK CONSTRAINT"})


@dataclass(frozen=True, slots=True)
class Item:
    """What one transaction does. counted: how many of the dump's indexes and constraints are done
    with it. late: it may look at tables other than its own, as a function of the user's can. identity: of
    the entry that it is of."""

    label: str
    text: bytes
    counted: int = 0
    late: bool = False
    identity: str = ""

    @property
    def step(self) -> str:
        """Names it in the bookkeeping."""
        return f"post-data:{hashlib.sha256(self.text).hexdigest()[:24]}"


@dataclass(frozen=True, slots=True)
class TableItems:
    """builds: at the same time. finish: after all of them, in order, by one session."""

    table: TableId
    builds: tuple[Item, ...] = ()
    finish: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The groups in the order that the module's text gives. settings: a session's, before any item.
    checks: each inner sequence in order, by one session."""

    settings: bytes
    tables: tuple[TableItems, ...]
    parents: tuple[Item, ...]
    keys: tuple[Item, ...]
    checks: tuple[tuple[Item, ...], ...]
    rest: tuple[Item, ...]

    def of_tables(self) -> Iterable[Item]:
        """What needs one table alone."""
        for table in self.tables:
            yield from (*table.builds, *table.finish)

    def items(self) -> Iterable[Item]:
        yield from self.of_tables()
        yield from (*self.parents, *self.keys)
        for chain in self.checks:
            yield from chain
        yield from self.rest

    @property
    def total(self) -> int:
        """How many indexes and constraints there are."""
        return sum(item.counted for item in self.items())


def plan(script: Script, relations: Mapping[TableId, str], version: int) -> Plan:
    """Divide the section. relations: the destination's before the section, with their relkind.
    version: the destination's server_version_num."""
    partitioned = {table for table, kind in relations.items() if kind == "p"}
    tables: dict[TableId, TableItems] = {}
    parents: list[Item] = []
    foreign: list[RestoreEntry] = []
    rest: list[Item] = []
    for entry in script.entries:
        own = _table_items(entry, relations)
        if entry.kind == "FK CONSTRAINT":
            foreign.append(entry)
        elif entry.kind == "INDEX ATTACH" or (own is not None and own.table in partitioned):
            parents.append(_whole(entry))
        elif own is None or own.table not in relations:
            rest.append(_whole(entry))
        else:
            known = tables.get(own.table, TableItems(own.table))
            tables[own.table] = TableItems(own.table, known.builds + own.builds, known.finish + own.finish)
    whole_checks = version < KEYS_OF_PARTITIONED_SINCE
    keys, checks = _foreign_keys(foreign, partitioned if whole_checks else ())
    return Plan(script.settings, tuple(tables.values()), tuple(parents), keys, checks, tuple(rest))


def _whole(entry: RestoreEntry, *, late: bool = False) -> Item:
    return Item(entry.label, entry.text, int(entry.kind in _COUNTED), late, entry.identity)


def _part(entry: RestoreEntry, text: bytes, *, counted: int = 0, late: bool = False) -> Item:
    return Item(entry.label, text, counted, late, entry.identity)


def _table_items(entry: RestoreEntry, relations: Mapping[TableId, str]) -> TableItems | None:
    """What becomes of an entry that needs one table alone; None for any other."""
    if entry.kind not in {"INDEX", "CONSTRAINT", "STATISTICS"}:
        return None
    first, *more = statements(entry.text)
    if entry.kind == "STATISTICS":
        of = statistics_table(first)
        return TableItems(of, finish=(_whole(entry),)) if of else None
    if (key := unique_key(entry.text, first)) and not _keeps_inherited(key, relations):
        finish = _part(entry, b"\n\n".join([key.adopt, *_texts(entry, more)]), counted=1)
        return TableItems(key.table, (_part(entry, key.build),), (finish,))
    late = calls_functions(first)
    if index := index_table(first):
        build = _part(entry, source(entry.text, first), counted=0 if more else 1, late=late)
        then = (_part(entry, b"\n\n".join(_texts(entry, more)), counted=1),) if more else ()
        return TableItems(index, (build,), then)
    if table := constraint_table(first):
        return TableItems(table, finish=(_whole(entry, late=late),))
    return None


def _texts(entry: RestoreEntry, of: Iterable[list[Token]]) -> list[bytes]:
    return [source(entry.text, statement) for statement in of]


def _keeps_inherited(key: UniqueKey, relations: Mapping[TableId, str]) -> bool:
    """Whether to leave a primary key as it stands: one that adopts an index makes NOT NULL, which
    the table has from its parent, the table's own (from 18 on)."""
    return key.primary and relations.get(key.table) == "h"


def _foreign_keys(
    entries: Sequence[RestoreEntry], unsupported: Collection[TableId]
) -> tuple[tuple[Item, ...], tuple[tuple[Item, ...], ...]]:
    """(keys, checks). Validations of one table exclude each other, so each table's are one
    sequence; keys that are added as they stand lock two tables at once, so they are another."""
    keys: list[Item] = []
    standing: list[Item] = []
    checks: dict[TableId, list[Item]] = {}
    for entry in entries:
        first, *more = statements(entry.text)
        key = foreign_key(entry.text, first)
        if is_unchecked(first):
            keys.append(_whole(entry))
        elif key is None or more or not {key.table, key.target}.isdisjoint(unsupported):
            standing.append(_whole(entry))
        else:
            keys.append(_part(entry, key.add))
            checks.setdefault(key.table, []).append(_part(entry, key.validate, counted=1))
    chains = [tuple(chain) for chain in (standing, *checks.values()) if chain]
    return tuple(keys), tuple(chains)


def analysis(table: TableId, kind: str = "r", version: int = KEYS_OF_PARTITIONED_SINCE) -> Item:
    """Planner statistics of a table, which has none yet; of a partitioned one without those of its
    partitions where the server can do so."""
    only = sql.SQL("ONLY " if kind == "p" and version >= ANALYZE_ONLY_SINCE else "")
    name = sql.Identifier(table.schema, table.name)
    statement = sql.SQL("ANALYZE {}{};").format(only, name).as_bytes(None)
    return Item(f"statistics of {table}", statement, late=kind != "r")


async def relations(conn: AsyncConnection) -> dict[TableId, str]:
    """The destination's tables, the largest first, with their relkind: r, p, m; or h for one that
    inherits or is inherited from. Statistics of such a table take its children's rows too."""
    with translated("listing the destination's tables"):
        cursor = await conn.execute(load_sql("schema/post_data_relations.sql"))
        return {TableId(schema, name): kind for schema, name, kind in await cursor.fetchall()}


class BuildingSession:
    """A connection in autocommit mode, with the plan's settings, that runs items."""

    def __init__(self, conn: AsyncConnection, migration_id: str) -> None:
        self._conn = conn
        self._migration_id = migration_id

    async def run(self, items: Sequence[Item], step: str = "") -> None:
        """Run them, and note them as done, in one transaction. step: noted instead of their own.

        What fails together is done one by one: all before the one that cannot be done is kept, and
        the error is about that. Raises SCHEMA_FAILED, ORPHAN_ROW, or what a retry cures.
        """
        steps = [step] if step else [item.step for item in items]
        try:
            if steps:
                await self._run(items, steps)
        except PgmigError as exc:
            if exc.policy.retry or len(items) == 1:
                raise
            for item in items:
                await self._run([item], [item.step])
            if step:
                await self._run([], [step])

    async def _run(self, items: Sequence[Item], steps: Sequence[str]) -> None:
        """As one query: several statements are a transaction, and one round trip."""
        note = step_note(self._conn, self._migration_id, steps)
        script = b"\n".join([*(item.text for item in items), note])
        try:
            await run_script(self._conn, script, f"post-data ({items[0].label})" if items else "post-data")
        except PgmigError as exc:
            only = items[0].identity if len(items) == 1 else ""
            raise naming(_explained(exc), only) from exc


# The default of 64 MB has the keys of a few million rows sorted on disk. shared_buffers is what
# tells of the server's memory: usually a quarter of it.
_SHARE_MEMORY = """
    SELECT pg_catalog.set_config(
        'maintenance_work_mem', greatest(own, least(1 << 20, shared / %s)) || 'kB', false)
    FROM (SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('maintenance_work_mem')) >> 10,
                 pg_catalog.pg_size_bytes(pg_catalog.current_setting('shared_buffers')) >> 10
         ) AS memory (own, shared)"""


@asynccontextmanager
async def building_session(
    uri: str, migration_id: str, settings: bytes, maintenance_work_mem_kb: int, sessions: int
) -> AsyncIterator[BuildingSession]:
    """settings: the plan's. maintenance_work_mem_kb: 0 leaves it to the destination's own settings.
    sessions: how many there will be at the same time."""
    statement = "SELECT pg_catalog.set_config(%s, %s, false)"
    async with connection(uri, "destination") as conn:
        await silence(conn)
        with translated("setting up a session that builds indexes"):
            if maintenance_work_mem_kb:
                await conn.execute(statement, ["maintenance_work_mem", f"{maintenance_work_mem_kb}kB"])
            else:
                await conn.execute(_SHARE_MEMORY, [sessions])
            with suppress(psycopg.errors.UndefinedObject, psycopg.DataError):
                # From 14 on, not on every platform: a build does not outlive us for long.
                await conn.execute(statement, ["client_connection_check_interval", "5s"])
        await run_script(conn, settings, "post-data")
        yield BuildingSession(conn, migration_id)


class DuplicateRowError(PgmigError):
    """Rows of the source violate one of its unique indexes. table: whose."""

    def __init__(self, kind: ErrorKind, message: str, hint: str, table: TableId) -> None:
        super().__init__(kind, message, hint)
        self.table = table


def _explained(error: PgmigError) -> PgmigError:
    """With the key of the row that stands in the way: it is in the server's detail."""
    refused = error.__cause__
    if not isinstance(refused, psycopg.errors.IntegrityError) or not refused.diag.message_detail:
        return error
    detail, diag = refused.diag.message_detail, refused.diag
    if isinstance(refused, psycopg.errors.UniqueViolation | psycopg.errors.ExclusionViolation):
        table = TableId(diag.schema_name or "", diag.table_name or "")
        return DuplicateRowError(
            ErrorKind.DUPLICATE_ROW,
            f"the source's own rows violate index {diag.constraint_name} of {table}: {detail}",
            "the source's index is damaged, since it lets such rows in. To find all of them, SET "
            "enable_indexscan = off, enable_indexonlyscan = off and enable_bitmapscan = off there, and group "
            "the rows by these columns",
            table,
        )
    if not isinstance(refused, psycopg.errors.ForeignKeyViolation):
        return PgmigError(error.kind, f"{error.message} ({detail})", error.hint)
    return PgmigError(
        ErrorKind.ORPHAN_ROW,
        f"foreign key {diag.constraint_name} of {diag.schema_name}.{diag.table_name} "
        f"does not hold for the source's own rows: {detail}",
    )
