"""An operator who follows the hints of messages until both databases are equal or no hint is left.

Advice is what a failure's hint holds: DDL ("run on the destination: ...; then ..."), a command
("pgmig-cli resync-table --id X SCHEMA.TABLE"), or neither. Then the operator repeats on the destination
those changes of the application that are missing there.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import LiteralString

import psycopg

from services.shared.model import ErrorKind, Failure, MigrationView, PgmigError, Phase, TableState
from tests.support.data.compare import compare_databases
from tests.support.migrations.cli import Cli
from tests.support.migrations.live import Live

ATTEMPTS = 8
TABLE = "SCHEMA.TABLE"
"""Of a command in a hint: the tables that the message lists."""
REPEATED = 2
"""A stop that comes once more after so many times is one that its own advice does not end."""
SETTLE_S = 90.0
SWITCHOVER_S = 60.0
_DDL = re.compile(
    r"run on the destination: (?P<ddl>.*?);? then (?:continue|pgmig-cli|copy the rows)", re.DOTALL
)
_INDEXES: LiteralString = """
    SELECT i.indrelid::regclass::text, concat('valid ', i.indisvalid, ' primary ', i.indisprimary),
           regexp_replace(pg_get_indexdef(i.indexrelid), 'INDEX .* ON ', 'INDEX ON ')
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'pgmig')
    UNION ALL
    SELECT conrelid::regclass::text, 'check', pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c'
       AND connamespace::regnamespace::text NOT IN ('information_schema', 'pgmig')"""
_TABLES: LiteralString = "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p')"
_COLUMN = re.compile(
    r"column app\.p\d\.\w+ is \[\d+ (?P<here>.*)\] at the source, \[\d+ (?P<there>.*)\] at the destination"
)
_RESYNC = re.compile(r"pgmig-cli (?P<command>resync-table[^;\n]*?)(?=[;,\n)]| then | \(|$)")


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the migration stopped, or a switchover was refused."""

    kind: str
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.message} [{self.hint}]"

    @property
    def ddl(self) -> str:
        """The DDL to run on the destination; "" if the hint contains none."""
        found = _DDL.search(self.hint)
        return found["ddl"].strip() if found else ""

    @property
    def soon(self) -> bool:
        """Whether the operator only has to wait."""
        return "within seconds" in self.hint

    @property
    def to_drop(self) -> list[str]:
        """Tables for which the hint also suggests to drop them on the source."""
        return self.listed if "drop them on the source" in self.hint else []

    @property
    def listed(self) -> list[str]:
        """Tables that are listed at the end of the message."""
        return self.message.rpartition(": ")[2].split(", ")

    @property
    def commands(self) -> list[list[str]]:
        """Arguments of each pgmig-cli command to run, except `resume`."""
        return [shlex.split(found["command"].strip(" `.")) for found in _RESYNC.finditer(self.hint)]


class AdviceRefusedError(AssertionError):
    """A hint could not be followed."""


@dataclass(slots=True)
class Operator:
    """The operator of one migration. by_hand: statements for the destination, run once, if no hint says what
    to do.

    on_source: the same for the source. release: releases the lock that holds the migration.
    switchover_s: the limit of each switchover.
    """

    live: Live
    cli: Cli = field(repr=False)
    by_hand: tuple[str, ...] = ()
    on_source: tuple[str, ...] = ()
    switchover_s: float = SWITCHOVER_S
    stops: list[Stop] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    release: Callable[[], None] = field(default=lambda: None, repr=False)

    def named(self, table: str) -> bool:
        """Whether the error of a stop named the table."""
        return any(table in stop.message for stop in self.stops)

    async def until(
        self, condition: Callable[[MigrationView], bool], timeout_s: float = SETTLE_S
    ) -> MigrationView:
        """The next view that meets `condition`. It may show a failed migration."""
        view: MigrationView | None = None
        try:
            async with asyncio.timeout(timeout_s):
                async for view in self.live.session.follow(self.live.migration_id):
                    if condition(view):
                        return view
        except TimeoutError:
            raise AssertionError(f"waited for too long; {self.told(view)}") from None
        raise AssertionError("the migration was cleaned up")

    async def settled(self) -> MigrationView:
        """The next view in which the migration streams, has ended, or has stopped."""
        return await self.until(
            lambda view: view.phase in {Phase.STREAMING, Phase.FAILED} or view.phase.ended
        )

    async def to_the_end(self, attempts: int = ATTEMPTS) -> None:
        """Follow all hints until a switchover succeeds. Then both databases must be equal."""
        assert await self.finishes(attempts), self.told(None)

    async def finishes(self, attempts: int = ATTEMPTS) -> bool:
        """Whether a switchover or a clone succeeded within so many stops. Raises AssertionError if one did,
        but the databases are not equal.
        """
        for _ in range(attempts):
            stop = await self._next_stop()
            if stop is None:
                found = await asyncio.to_thread(differences, self.live.source, self.live.dest)
                assert not found, f"it ended, and the databases differ:\n{self.told(None)}\n" + "\n".join(
                    found
                )
                return True
            told_before = self.stops[-REPEATED:] == [stop] * REPEATED
            self.stops.append(stop)
            if told_before:
                break
            await self.follow(stop)
        return False

    async def _next_stop(self) -> Stop | None:
        view = await self.settled()
        if view.phase is Phase.FAILED:
            assert view.failure is not None
            return stop_of(view.failure)
        if view.phase is not Phase.STREAMING:
            return None
        try:
            await self.live.switch_over(self.switchover_s)
        except PgmigError as exc:
            if exc.kind is ErrorKind.WRONG_PHASE:  # it stopped just before: find the reason
                assert (await self.settled()).failure is not None, exc
                return await self._next_stop()
            return Stop(exc.kind.name, exc.message, exc.hint)
        return None

    async def follow(self, stop: Stop) -> None:
        """Follow the hint, and resume the migration."""
        if "SET LOGGED" in f"{stop.message} {stop.hint}":
            await self._on_source()
        if stop.ddl:
            await asyncio.to_thread(self._alter, stop)
        elif stop.kind == ErrorKind.TIMEOUT:
            return
        elif stop.soon:
            await self._copied(stop)
        elif stop.to_drop and not stop.commands:
            drops = [f"DROP TABLE IF EXISTS {table}" for table in stop.to_drop]
            await asyncio.to_thread(self._run, self.live.source, drops, strictly=False)
        elif not stop.commands:
            by_hand, self.by_hand = self.by_hand, ()
            await asyncio.to_thread(self._make_by_hand, by_hand)
            await self._on_source()
        for command in stop.commands:
            arguments = [name for word in command for name in (stop.listed if word == TABLE else [word])]
            refused = await self._command(arguments)
            if refused and (ddl := Stop("", "", refused).ddl):
                await asyncio.to_thread(self._run, self.live.dest, [ddl], strictly=True)
                refused = await self._command(arguments)
            if refused:
                raise AdviceRefusedError(self.told(None))
        await self.resume()

    async def _command(self, arguments: list[str]) -> str:
        """The command's messages if it fails; "" if it succeeds."""
        ended = await asyncio.to_thread(self.cli.run, *arguments)
        self.done.append(f"pgmig-cli {shlex.join(arguments)}: {ended.returncode} {ended.stderr.strip()}")
        return ended.stderr if ended.returncode != 0 else ""

    async def _copied(self, stop: Stop) -> None:
        """Wait until the migration has copied the new tables that the message names."""
        await self.until(
            lambda view: (
                view.phase is Phase.FAILED
                or (
                    view.phase is Phase.STREAMING
                    and any(
                        one.state is TableState.COPIED and str(one.table) in stop.message
                        for one in view.tables
                    )
                )
            )
        )

    async def _on_source(self) -> None:
        on_source, self.on_source = self.on_source, ()
        await asyncio.to_thread(self._run, self.live.source, on_source, strictly=False)

    async def resume(self) -> None:
        """Nothing happens if it already continues."""
        try:
            await self.live.session.resume(self.live.migration_id, self.live.source, self.live.dest)
        except PgmigError as exc:
            if exc.kind is not ErrorKind.WRONG_PHASE:
                raise

    def prepare(self, *statements: str) -> None:
        """Run on the destination, without a hint."""
        self._run(self.live.dest, statements, strictly=True)

    def _alter(self, stop: Stop) -> None:
        """Run the DDL. Rows whose values it cannot convert are deleted first, if the hint says so."""
        try:
            self._run(self.live.dest, [stop.ddl], strictly=True, as_told=True)
        except AdviceRefusedError as exc:
            if not isinstance(exc.__cause__, psycopg.DataError) or "delete the table's rows" not in stop.hint:
                raise
            tables = [name for command in stop.commands for name in command if name.startswith("app.")]
            emptied = "; ".join(f"DELETE FROM {table}" for table in tables)
            self._run(self.live.dest, [emptied], strictly=True)
            self._run(self.live.dest, [stop.ddl], strictly=True, as_told=True)

    def _make_by_hand(self, statements: Iterable[str]) -> None:
        """Run on the destination what the application ran, except statements that compute values: they would
        change rows twice if the table was copied after them. If a statement fails there, a table may remain
        that the source has renamed or dropped: it is dropped."""
        before = _tables(self.live.dest)
        shapes = [statement for statement in statements if " USING " not in statement]
        self._run(self.live.dest, shapes, strictly=False)
        left = _tables(self.live.dest) - before - _tables(self.live.source)
        self._run(self.live.dest, [f"DROP TABLE {table}" for table in sorted(left)], strictly=False)

    def _run(self, uri: str, statements: Iterable[str], *, strictly: bool, as_told: bool = False) -> None:
        """as_told: in a session that is read-only if that is the database's default."""
        writes = "" if as_told else " -c default_transaction_read_only=off"
        with psycopg.connect(uri, autocommit=True, options=f"-c lock_timeout=20s{writes}") as conn:
            for statement in statements:
                try:
                    conn.execute(statement.encode())
                except psycopg.Error as exc:
                    self.done.append(f"{statement}: {exc}")
                    if strictly:
                        raise AdviceRefusedError(self.told(None)) from exc
                else:
                    self.done.append(statement)

    def told(self, view: MigrationView | None) -> str:
        """Everything that happened, for the message of a failed test."""
        lines = [f"stop {stop}" for stop in self.stops] + [f"done {text}" for text in self.done]
        if view is not None:
            lines.append(f"phase {view.phase}, {view.failure}, {view.positions}")
            lines += [f"{event.at:.3f} {event.level} {event.text}" for event in view.events[-20:]]
        return "\n".join(lines)


def _tables(uri: str) -> set[str]:
    with psycopg.connect(uri, options="-c search_path=") as conn:
        return {row[0] for row in conn.execute(_TABLES)}


def differences(source: str, dest: str) -> list[str]:
    """Differences of rows, sequences and definitions. Names of indexes and constraints are ignored, because
    renaming a table does not change them."""
    found = [
        line
        for line in compare_databases(source, dest)
        if not line.startswith(("index ", "constraint ")) and not _in_another_place(line)
    ]
    sides = []
    for uri in (source, dest):
        with psycopg.connect(uri, options="-c search_path=") as conn:
            sides.append(Counter(" ".join(row) for row in conn.execute(_INDEXES)))
    at_source, at_dest = sides
    found += [f"only at the source: {one}" for one in at_source - at_dest]
    return found + [f"only at the destination: {one}" for one in at_dest - at_source]


def _in_another_place(line: str) -> bool:
    """Whether the columns differ only in their numbers. This is so for a partition that was attached on one
    side and created as a partition on the other."""
    sides = _COLUMN.fullmatch(line)
    return sides is not None and sides["here"] == sides["there"]


def stop_of(failure: Failure) -> Stop:
    """The stop of a migration in phase failed."""
    return Stop(failure.kind, failure.message, failure.hint)
