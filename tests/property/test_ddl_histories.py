"""Random changes of tables and of rows against a migration, in random phases.

Every history ends with equal databases, definitions and every row, or with a stop that names a
table before a switchover could succeed. An operator follows the advice that he is given, a bounded
number of times. Several histories run at a time, on one set of services and on databases of their own.

    PGMIG_DDL_HISTORIES=300              how many; 12 by default, of which none is free
    PGMIG_DDL_SEED=17                    the first one's seed; the others follow. 1 by default.
    PGMIG_DDL_MODE=held                  the same for every history
    PGMIG_DDL_LEAVE_OUT=3,5,8            steps that are not run, to find the guilty one

A failure shows what reproduces it: the seed, and all that the application, the migration and the
operator did.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from random import Random
from typing import LiteralString, Self

import psycopg
import pytest

from services.shared.model import MESSAGE_PREFIX, Lsn, MigrationView, PgmigError, Phase
from tests.property.ddl import GATE, SETUP, Application, State, state
from tests.support.migrations.advice import AdviceRefusedError, Operator, Stop, stop_of
from tests.support.migrations.changing import CLONE, COPIER, FOLLOW, Bed, services
from tests.support.migrations.stack import Stack
from tests.support.servers.postgres import PostgresServer

pytestmark = pytest.mark.timeout(300)

GROUP = 12
AT_A_TIME = 3
ATTEMPTS = 10
WAIT_S = 60.0
MODES = ("held", "held", "free", "clone")
"""held: the migration stands in chosen phases while the application goes on. free: nobody waits for
anybody. clone: nothing is followed; held likewise, and the copy is of one moment of the source."""

COUNT = int(os.environ.get("PGMIG_DDL_HISTORIES", "12"))
SEED = int(os.environ.get("PGMIG_DDL_SEED") or 1)
MODE = os.environ.get("PGMIG_DDL_MODE", "")
FREE = "PGMIG_DDL_HISTORIES" in os.environ
"""What races with a migration may end otherwise the next time: only where it was asked for."""
LEFT_OUT = frozenset(map(int, filter(None, os.environ.get("PGMIG_DDL_LEAVE_OUT", "").split(","))))
KINDS = {"SCHEMA_FAILED", "SCHEMA_DRIFT", "MISSING_ROW", "APPLY_FAILED", "COPY_FAILED"}
_AT_GATE: LiteralString = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with services(tmp_path_factory.mktemp("services")) as stack:
        stack.start(COPIER)
        yield stack


@dataclass(frozen=True, slots=True)
class Servers:
    stack: Stack
    source: PostgresServer
    dest: PostgresServer

    @asynccontextmanager
    async def databases(self) -> AsyncIterator[Bed]:
        """Made and dropped beside those of other histories."""
        name = f"ddl_{secrets.token_hex(4)}"
        sides = (self.source, self.dest)
        source, dest = [await asyncio.to_thread(side.create_database, name) for side in sides]
        try:
            yield Bed(self.stack, source, dest)
        finally:
            for side in sides:
                await asyncio.to_thread(side.drop_database, name)


@pytest.mark.parametrize("first", range(0, COUNT, GROUP))
async def test_histories_end_equal_or_with_a_stop_that_names_a_table(
    first: int, stack: Stack, source_server: PostgresServer, dest_server: PostgresServer
) -> None:
    servers = Servers(stack, source_server, dest_server)
    seeds = iter(range(SEED + first, SEED + min(COUNT, first + GROUP)))
    outcomes: Counter[str] = Counter()
    problems: list[str] = []

    async def player() -> None:
        for seed in seeds:
            outcome, problem = await outcome_of(servers, seed)
            outcomes[outcome.partition(":")[0]] += 1
            print(f"history {seed}: {outcome}")
            problems.extend([problem] if problem else [])

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_A_TIME):
            group.create_task(player())
    print(dict(outcomes))
    assert not problems, "\n\n".join(problems)


async def outcome_of(servers: Servers, seed: int) -> tuple[str, str]:
    """A word for it, and what is wrong with it, if anything."""
    application = Application(seed, LEFT_OUT)
    told: list[str] = []
    try:
        async with servers.databases() as bed:
            return await _migrated(bed, application, Random(f"history {seed}"), told), ""
    except (AssertionError, PgmigError, psycopg.Error) as exc:
        return "broken", "\n".join([f"history {seed}: {exc}", *application.log, *told])


async def _migrated(bed: Bed, application: Application, random: Random, told: list[str]) -> str:
    drawn = random.choice(MODES)
    mode = MODE or ("held" if drawn == "free" and not FREE else drawn)
    with ExitStack() as stack:
        conn = stack.enter_context(session(bed.source))
        for statement in SETUP:
            conn.execute(statement.encode())
        application.play(conn, random.randrange(3), 0.4)
        if mode == "clone":
            application.states.append(state(conn))
        application.log.append(f"-- the migration begins, {mode}")
        before = len(application.ddl)
        holds = stack.enter_context(Holds.on(bed.dest)) if mode != "free" else None
        async with bed.migration(CLONE if mode == "clone" else FOLLOW) as operator:
            history = History(bed, application, random, conn, operator, before)
            try:
                await (history.held(holds) if holds is not None else history.free())
                return await (history.cloned() if mode == "clone" else history.followed())
            except AdviceRefusedError:
                return f"advice refused: {operator.done[-1]}"
            finally:
                view = await operator.live.session.get(operator.live.migration_id)
                told.append(operator.told(view))


def session(uri: str) -> psycopg.Connection:
    return psycopg.connect(uri, autocommit=True, options="-c lock_timeout=5s", prepare_threshold=None)


@dataclass(slots=True)
class Holds:
    """What stands in the way of a migration's schema, and then of the copy of app.big."""

    schema: psycopg.Connection
    gate: psycopg.Connection

    @classmethod
    @contextmanager
    def on(cls, dest: str) -> Iterator[Self]:
        with session(dest) as schema, session(dest) as gate:
            schema.execute("BEGIN")
            schema.execute("CREATE SCHEMA app")
            gate.execute("SELECT pg_advisory_lock(%s)", [GATE])
            yield cls(schema, gate)


@dataclass(slots=True)
class History:
    """One migration with its application, which has the connection, and its operator. before: how many
    statements of DDL the application had run when the migration began."""

    bed: Bed
    application: Application
    random: Random
    conn: psycopg.Connection
    operator: Operator
    before: int

    async def held(self, holds: Holds) -> None:
        """Play while the schema waits to be made, and while the copy is at its beginning."""
        if await self._reached(lambda: self.bed.waits("CREATE SCHEMA")):
            await self._play("while the schema is made", self.random.choice((0, 0, 1, 2, 4)))
        holds.schema.execute("ROLLBACK")
        if await self._reached(lambda: self._at_gate(holds.schema)):
            await self._play("while app.big is copied", self.random.choice((0, 1, 2, 4)))
        holds.gate.execute("SELECT pg_advisory_unlock_all()")

    async def free(self) -> None:
        """Play whatever the migration is at."""
        await self._play("beside the migration", self.random.choice((2, 5, 9, 14)))

    async def cloned(self) -> str:
        """The destination is what the source was at some moment since it began."""
        self.operator.by_hand = tuple(self.application.ddl[self.before :])
        for _ in range(ATTEMPTS):
            view = await self.operator.settled()
            if view.phase is not Phase.FAILED:
                with session(self.bed.dest) as dest:
                    found = state(dest)
                if found not in self.application.states:
                    raise AssertionError(f"it is of no moment of the source:\n{self._unlike_now(found)}")
                return f"clone equal{' after stops' if self.operator.stops else ''}"
            await self._follow_advice(view)
        return self._stopped()

    def _unlike_now(self, found: State) -> str:
        """What is not as it was at the source's last moment, a line for each table."""
        now, here = ({name: rest for name, *rest in of} for of in (self.application.states[-1], found))
        return "\n".join(
            f"{name}: source {str(now.get(name))[:300]}\n    destination {str(here.get(name))[:300]}"
            for name in sorted(now | here)
            if now.get(name) != here.get(name)
        )

    async def followed(self) -> str:
        for _ in range(self.random.choice((1, 1, 2, 3))):
            view = await self.operator.settled()
            if view.phase is Phase.FAILED:
                await self._follow_advice(view)
            await self._play("while changes are followed", self.random.choice((1, 2, 4, 7)))
            if self.random.random() < 0.4:
                await self._drain()
        self.operator.by_hand = tuple(self.application.ddl[self.before :])
        equal = await self.operator.finishes(ATTEMPTS)
        for stop in self.operator.stops:
            _check(stop)
        if not equal:
            return self._stopped()
        return "equal after stops" if self.operator.stops else "equal"

    def _stopped(self) -> str:
        for stop in self.operator.stops:
            _check(stop)
        return f"stopped, {self.operator.stops[-1].kind}"

    async def _play(self, when: str, steps: int) -> None:
        self.application.log.append(f"-- {when}")
        await asyncio.to_thread(self.application.play, self.conn, steps, 0.55)

    async def _follow_advice(self, view: MigrationView) -> None:
        assert view.failure is not None
        self.operator.stops.append(stop_of(view.failure))
        self.application.log.append("-- the operator follows the advice of a stop")
        await self.operator.follow(self.operator.stops[-1])

    async def _reached(self, condition: Callable[[], bool]) -> bool:
        """Whether it came to that, rather than to a stop. What is polled has no event."""
        deadline = time.monotonic() + WAIT_S
        while not await asyncio.to_thread(condition):
            view = await self.operator.live.session.get(self.operator.live.migration_id)
            if view.phase is Phase.FAILED:
                return False
            assert time.monotonic() < deadline, f"it does not come to that: {view.phase} {view.events[-5:]}"
            await asyncio.sleep(0.05)
        return True

    def _at_gate(self, conn: psycopg.Connection) -> bool:
        return conn.execute(_AT_GATE, [GATE]).fetchone() is not None

    async def _drain(self) -> None:
        """Everything is applied, or the migration has stopped."""
        row = self.conn.execute(
            "SELECT pg_logical_emit_message(true, %s, 'drain')::text", [MESSAGE_PREFIX]
        ).fetchone()
        assert row is not None
        written = Lsn.parse(row[0])
        await self.operator.until(
            lambda view: view.phase is Phase.FAILED or view.positions.flushed_lsn >= written
        )


def _check(stop: Stop) -> None:
    """A stop is of a kind that is expected, and says which table it is about."""
    assert stop.kind in KINDS, f"an unexpected stop: {stop}"
    assert "app." in stop.message, f"a stop that names no table: {stop}"
