"""Indexes, constraints, triggers: the post-data section, built in parallel and resumable.

pg_restore heads each statement with a comment that names its type. Indexes and primary key,
unique and exclusion constraints of one table each are independent of all others: they are built
first, several tables at a time, each in a transaction that also notes it as done. Everything
else (partitioned indexes attached to their parents, foreign keys, triggers, policies) follows
in pg_restore's order in one transaction with the note of the whole section. Only there tables
meet, so before it the caller may have to bring their rows into step with each other.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from psycopg import sql

from services.shared.model import TableId
from services.shared.pg.bookkeeping import mark_step
from services.shared.pg.catalog import load_sql
from services.shared.pg.connection import connection, translated
from services.shared.pg.dump import run_script
from services.shared.pg.event_triggers import silence

_HEADER = re.compile(rb"^--\n-- Name: .*; Type: (?P<type>[A-Z ]+); Schema: .*; Owner: .*\n--\n", re.MULTILINE)
_NAME = rb'(?:"(?:[^"]|"")+"|[^\s".]+)'
_TABLE = re.compile(
    rb"^(?:CREATE (?:UNIQUE )?INDEX " + _NAME + rb" ON|ALTER TABLE) (?P<only>ONLY )?"
    rb"(?P<table>" + _NAME + rb"\." + _NAME + rb")\s",
    re.MULTILINE,
)
_EVENT_TRIGGER = re.compile(
    rb"^-- Name: (?:.*; Type: EVENT TRIGGER|EVENT TRIGGER .*; Type: COMMENT);", re.MULTILINE
)
_COUNTED = {b"INDEX", b"CONSTRAINT", b"FK CONSTRAINT"}

Progress = Callable[[int, int], None]
"""Called with how many of how many indexes and constraints are done."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One statement of the section, or the settings that come first (kind b"")."""

    kind: bytes
    text: bytes

    @property
    def step(self) -> str:
        """Names it in the bookkeeping."""
        return f"post-data:{hashlib.sha256(self.text).hexdigest()[:24]}"

    @property
    def counted(self) -> bool:
        return self.kind in _COUNTED


def split_entries(script: bytes) -> list[Entry]:
    """The script's statements; joined again they are the script."""
    heads = list(_HEADER.finditer(script))
    starts = [head.start() for head in heads] + [len(script)]
    bodies = (script[start:end] for start, end in pairwise(starts))
    return [
        Entry(b"", script[: starts[0]]),
        *(Entry(head["type"], body) for head, body in zip(heads, bodies, strict=True)),
    ]


def by_table(entries: Iterable[Entry]) -> dict[bytes, list[Entry]]:
    """Entries that need nothing but their table, in order. Those of partitioned parents need
    their partitions' and are not among them; nor is what cannot be recognised."""
    found: dict[bytes, list[Entry]] = {}
    parents: set[bytes] = set()
    for entry in entries:
        match = _TABLE.search(entry.text) if entry.kind in {b"INDEX", b"CONSTRAINT"} else None
        if match is None:
            continue
        if match["only"] and entry.kind == b"INDEX":  # pg_dump says ON ONLY for partitioned parents
            parents.add(match["table"])
        found.setdefault(match["table"], []).append(entry)
    return {table: own for table, own in found.items() if table not in parents}


def event_triggers_last(entries: Iterable[Entry]) -> list[Entry]:
    """pg_restore refreshes materialized views after it has made event triggers, which may be about
    that and may be ENABLE ALWAYS. So they come at the very end, with what is said about them."""
    early: list[Entry] = []
    late: list[Entry] = []
    for entry in entries:
        (late if _EVENT_TRIGGER.search(entry.text) else early).append(entry)
    return early + late


async def _nothing() -> None:
    """All rows are of one moment."""


async def restore_post_data(
    uri: str,
    migration_id: str,
    script: bytes,
    *,
    done: set[str],
    step: str,
    workers: int,
    progress: Progress,
    tables_in_step: Callable[[], Awaitable[None]] = _nothing,
) -> None:
    """Build everything of `script` whose step is not in `done`, and note `step` at the end.

    tables_in_step: awaited when only what spans tables is left, which holds only for rows of one
    moment.
    """
    entries = split_entries(script)
    total, finished = sum(entry.counted for entry in entries), 0

    def count(entry: Entry) -> None:
        nonlocal finished
        finished += entry.counted
        progress(finished, total)

    progress(0, total)
    tables = asyncio.Queue[Sequence[Entry]]()
    ahead = by_table(entries)
    for own in sorted(ahead.values(), key=len, reverse=True):
        tables.put_nowait(own)

    async def work() -> None:
        async with connection(uri, "destination") as conn:
            await silence(conn)
            while not tables.empty():
                for entry in tables.get_nowait():
                    if entry.step not in done:
                        async with conn.transaction():
                            await run_script(conn, entries[0].text + entry.text, step)
                            await mark_step(conn, migration_id, entry.step)
                    count(entry)

    async with asyncio.TaskGroup() as group:
        for number in range(max(1, min(workers, len(ahead)))):
            group.create_task(work(), name=f"indexes-{number}")
    await tables_in_step()
    early = {entry.step for own in ahead.values() for entry in own}
    async with connection(uri, "destination") as conn, conn.transaction():
        await silence(conn)
        for entry in event_triggers_last(entries):
            if entry.step not in early:
                await run_script(conn, entry.text, step)
                count(entry)
        await mark_step(conn, migration_id, step)


async def analyze(uri: str, workers: int) -> None:
    """Planner statistics for every table, several at a time, the largest first: the destination
    has none yet. Partitioned parents come last, since theirs are made of their partitions'."""
    async with connection(uri, "destination") as conn:
        with translated("listing the destination's tables"):
            rows = await (await conn.execute(load_sql("analyze_tables.sql"))).fetchall()
    for kind in ("r", "p"):
        tables = asyncio.Queue[TableId]()
        for schema, name, found in rows:
            if found == kind:
                tables.put_nowait(TableId(schema, name))
        async with asyncio.TaskGroup() as group:
            for number in range(max(1, min(workers, tables.qsize()))):
                group.create_task(_analyze(uri, tables), name=f"analyze-{number}")


async def _analyze(uri: str, tables: asyncio.Queue[TableId]) -> None:
    async with connection(uri, "destination") as conn:
        while not tables.empty():
            table = tables.get_nowait()
            with translated(f"analysing {table} on the destination"):
                await conn.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(table.schema, table.name)))
