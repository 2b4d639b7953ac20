"""The post-data section as a plan: what can be built when, in which session, and at the same time as what.

The archive gives each entry's kind. The plan divides the entries by what they need (`plan`; pure, computed
from the entries and the destination's relations). If one statement has to be split into two, only its tokens
are used, never a search in its text:

tables   entries of one table, whose rows are already copied. First its indexes are built, each in its own
         session and at the same time as the others (CREATE INDEX takes a SHARE lock, which does not conflict
         with itself). Then follow statements that lock the table and take no time: constraints that adopt a
         finished index, replica identity, CLUSTER ON, statistics. So primary keys and unique constraints are
         built as unique indexes. An exclusion constraint cannot adopt an index and is built here unchanged.
parents  entries of partitioned tables. These have no rows, but they attach the indexes of their partitions.
keys     foreign keys as NOT VALID, which only reads the catalog.
checks   validation of the foreign keys, which reads two tables and blocks nobody. If a server does not
         support NOT VALID for a key (partitioned tables before 18), the key is added unchanged.
rest     everything else, in pg_restore's order.

From `keys` on, statements read several tables, so the rows of these must be from the same point in time.
`BuildingSession` runs an item in one transaction with the record that it is done. So after any failure,
exactly the recorded items exist.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import psycopg
from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, PgmigError, PipelineId, TableId
from services.shared.pg.bookkeeping.schema import step_note
from services.shared.pg.schema.archive.restore_sql import RestoreEntry, Script
from services.shared.pg.schema.dump import naming, run_script
from services.shared.pg.schema.parsing.lexer import Token, source, statements
from services.shared.pg.schema.parsing.table_ddl import (
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
"""Before this version, ANALYZE of a partitioned table includes all its partitions."""

_COUNTED = frozenset({"INDEX", "CONSTRAINT", "FK CONSTRAINT"})


@dataclass(frozen=True, slots=True)
class Item:
    """The work of one transaction. counted: how many of the dump's indexes and constraints are finished by
    it. late: it may read tables other than its own, for example by a user's function. identity: of the entry
    that it belongs to."""

    label: str
    text: bytes
    counted: int = 0
    late: bool = False
    identity: str = ""

    @property
    def step(self) -> str:
        """Its name in the bookkeeping."""
        return f"post-data:{hashlib.sha256(self.text).hexdigest()[:24]}"


@dataclass(frozen=True, slots=True)
class TableItems:
    """builds: run at the same time. finish: run after all of them, in order, by one session."""

    table: TableId
    builds: tuple[Item, ...] = ()
    finish: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The groups, in the order of the module's docstring. settings: of a session, before any item. checks:
    each inner sequence is run in order by one session."""

    settings: bytes
    tables: tuple[TableItems, ...]
    parents: tuple[Item, ...]
    keys: tuple[Item, ...]
    checks: tuple[tuple[Item, ...], ...]
    rest: tuple[Item, ...]

    def of_tables(self) -> Iterable[Item]:
        """The items that need only one table."""
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
        """The number of indexes and constraints."""
        return sum(item.counted for item in self.items())


def plan(script: Script, relations: Mapping[TableId, str], version: int) -> Plan:
    """Divide the section. relations: the destination's before the section, with their relkind. version: the
    destination's server_version_num."""
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
    """The items of an entry that needs only one table. None for any other entry."""
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
    """Whether to leave a primary key unchanged. From 18 on, a key that adopts an index creates the NOT NULL
    constraint as the table's own, although the table inherits it from its parent."""
    return key.primary and relations.get(key.table) == "h"


def _foreign_keys(
    entries: Sequence[RestoreEntry], unsupported: Collection[TableId]
) -> tuple[tuple[Item, ...], tuple[tuple[Item, ...], ...]]:
    """Returns (keys, checks). Validations of one table exclude each other, so each table's validations are
    one sequence. Keys that are added unchanged lock two tables at once, so they are a separate sequence."""
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
    """Collect planner statistics of a table that has none yet. For a partitioned table, statistics of its
    partitions are not included if the server supports that."""
    only = sql.SQL("ONLY " if kind == "p" and version >= ANALYZE_ONLY_SINCE else "")
    name = sql.Identifier(table.schema, table.name)
    statement = sql.SQL("ANALYZE {}{};").format(only, name).as_bytes(None)
    return Item(f"statistics of {table}", statement, late=kind != "r")


async def relations(conn: AsyncConnection) -> dict[TableId, str]:
    """The destination's tables, the largest first, with their relkind: r, p, m; or h for a table that
    inherits or is inherited from. Statistics of such a table include its children's rows."""
    with translated("listing the destination's tables"):
        cursor = await conn.execute(load_sql("schema/sql/post_data_relations.sql"))
        return {TableId(schema, name): kind for schema, name, kind in await cursor.fetchall()}


class BuildingSession:
    """A connection in autocommit mode, with the plan's settings, that runs items."""

    def __init__(self, conn: AsyncConnection, pipeline: PipelineId) -> None:
        self._conn = conn
        self._pipeline = pipeline

    async def run(self, items: Sequence[Item], step: str = "") -> None:
        """Run items and record them as done, in one transaction. step: recorded instead of the items' own
        steps.

        If they fail together, they are run one by one: all items before the failing one are kept, and the
        error is about the failing item. Raises SCHEMA_FAILED, ORPHAN_ROW, DUPLICATE_ROW, or an error that a
        retry may solve.
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
        """Run items as one query: several statements are one transaction and need one round trip."""
        note = step_note(self._conn, self._pipeline, steps)
        script = b"\n".join([*(item.text for item in items), note])
        try:
            await run_script(self._conn, script, f"post-data ({items[0].label})" if items else "post-data")
        except PgmigError as exc:
            only = items[0].identity if len(items) == 1 else ""
            raise naming(_explained(exc), only) from exc


# With the default of 64 MB, the keys of a few million rows are sorted on disk. shared_buffers shows how much
# memory the server has: it is usually a quarter of it.
_SHARE_MEMORY = """
    SELECT pg_catalog.set_config(
        'maintenance_work_mem', greatest(own, least(1 << 20, shared / %s)) || 'kB', false)
    FROM (SELECT pg_catalog.pg_size_bytes(pg_catalog.current_setting('maintenance_work_mem')) >> 10,
                 pg_catalog.pg_size_bytes(pg_catalog.current_setting('shared_buffers')) >> 10
         ) AS memory (own, shared)"""


@asynccontextmanager
async def building_session(
    uri: str, pipeline: PipelineId, settings: bytes, maintenance_work_mem_kb: int, sessions: int
) -> AsyncIterator[BuildingSession]:
    """settings: the plan's. maintenance_work_mem_kb: 0 means the destination's own settings. sessions: how
    many will run at the same time."""
    statement = "SELECT pg_catalog.set_config(%s, %s, false)"
    async with connection(uri, "destination") as conn:
        await silence(conn)
        with translated("setting up a session that builds indexes"):
            if maintenance_work_mem_kb:
                await conn.execute(statement, ["maintenance_work_mem", f"{maintenance_work_mem_kb}kB"])
            else:
                await conn.execute(_SHARE_MEMORY, [sessions])
            with suppress(psycopg.errors.UndefinedObject, psycopg.DataError):
                # From 14 on, not on every platform: a build ends soon after this process has ended.
                await conn.execute(statement, ["client_connection_check_interval", "5s"])
        await run_script(conn, settings, "post-data")
        yield BuildingSession(conn, pipeline)


class DuplicateRowError(PgmigError):
    """Rows of the source violate one of its unique indexes. table: the table of that index."""

    def __init__(self, kind: ErrorKind, message: str, hint: str, table: TableId) -> None:
        super().__init__(kind, message, hint)
        self.table = table


def _explained(error: PgmigError) -> PgmigError:
    """The error with the key of the row that violates the constraint, from the server's error detail."""
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
