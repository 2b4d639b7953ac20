"""A database whose tables change under a migration, at moments that the test chooses.

One set of services runs the migrations of all tests of a module, each with its own databases. A lock or an
open transaction holds the migration at a moment, never a delay:

- `in_schema`: the destination's schema cannot be created, because another session is creating it.
- `in_copy`: the only copier waits to fill table app.big on the destination; it is the largest, so
  that nothing else was copied.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import LiteralString

import psycopg

from services.shared.model import MigrationOptions, PgmigError, Phase
from tests.support.migrations.advice import Operator
from tests.support.migrations.cli import Cli
from tests.support.migrations.live import Live, eventually
from tests.support.migrations.stack import Stack
from tests.support.servers.nats import NatsServer

FOLLOW = MigrationOptions(follow=True, copy_workers=1)
CLONE = MigrationOptions(follow=False, copy_workers=1)
CUT = replace(FOLLOW, split_tables_larger_than=32 << 10)
"""Tables beyond 32 kB are cut."""

BIG = (
    "CREATE SCHEMA app",
    "CREATE TABLE app.big (id int PRIMARY KEY, v text)",
    "INSERT INTO app.big SELECT n, repeat('big', 200) FROM generate_series(1, 3000) n",
)
COPIER = "copier-1"
_WAITING: LiteralString = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND query ~ %s"""


@contextmanager
def services(folder: Path) -> Iterator[Stack]:
    """All services but the copier, for many migrations."""
    settings = {"PGMIG_MAX_STREAM_BYTES": str(256 << 20)}  # of each stream: the broker reserves them
    with (
        NatsServer() as nats,
        Stack(nats, folder, workers=("decoder", "applier"), settings=settings) as stack,
    ):
        yield stack


def run(uri: str, *statements: str, together: bool = False) -> None:
    """Run each in a transaction of its own, or all in one, also if the database is read-only by default."""
    options = "-c lock_timeout=20s -c default_transaction_read_only=off"
    with psycopg.connect(uri, autocommit=not together, options=options) as conn:
        for statement in statements:
            conn.execute(statement.encode())


@dataclass(slots=True)
class Bed:
    """The databases of one test. source, dest: URIs."""

    stack: Stack
    source: str = field(repr=False)
    dest: str = field(repr=False)

    def app(self, *statements: str) -> None:
        """What the application does, statement by statement."""
        run(self.source, *statements)

    def at_once(self, *statements: str) -> None:
        """What the application does in one transaction."""
        run(self.source, *statements, together=True)

    @asynccontextmanager
    async def migration(self, options: MigrationOptions) -> AsyncIterator[Operator]:
        """A started migration. It is cleaned up at the end of the block, even if it failed."""
        name = f"t{secrets.token_hex(4)}"
        cli = Cli.on(
            self.source,
            self.dest,
            self.stack.state_dir,
            PGMIG_COORDINATOR=self.stack.address,
            PGMIG_ID=name,
        )
        async with self.stack.session() as session:
            live = Live(session, name, self.source, self.dest)
            await live.start(options)
            try:
                yield Operator(live, cli)
            finally:
                with suppress(PgmigError):
                    await session.abort(name)
                with suppress(PgmigError):
                    await session.cleanup(name, force=True)

    @asynccontextmanager
    async def streaming(self, *ddl: str, options: MigrationOptions = FOLLOW) -> AsyncIterator[Operator]:
        """A streaming migration of a database that `ddl` creates."""
        self.app("CREATE SCHEMA app", *ddl)
        self.copier(at_work=True)
        async with self.migration(options) as operator:
            await operator.live.until_phase(Phase.STREAMING)
            yield operator

    @asynccontextmanager
    async def in_schema(self, *ddl: str, options: MigrationOptions = FOLLOW) -> AsyncIterator[Operator]:
        """A migration whose schema waits to be restored until `release`."""
        self.app(*BIG, *ddl)
        self.copier(at_work=True)
        with psycopg.connect(self.dest) as rival:
            rival.execute("CREATE SCHEMA app")
            async with self.migration(options) as operator:
                eventually(lambda: self.waits("CREATE SCHEMA"), "the schema is being restored")
                operator.release = rival.rollback
                yield operator

    @asynccontextmanager
    async def in_copy(self, *ddl: str, options: MigrationOptions = FOLLOW) -> AsyncIterator[Operator]:
        """A migration that copies app.big, and waits there until `release`."""
        self.app(*BIG, *ddl)
        self.copier(at_work=False)
        async with self.migration(options) as operator:
            await operator.live.until_phase(Phase.COPY)
            with psycopg.connect(self.dest) as rival:
                rival.execute("LOCK TABLE app.big IN SHARE MODE")
                self.copier(at_work=True)
                eventually(lambda: self.waits("app.*big"), "app.big is being copied")
                operator.release = rival.rollback
                yield operator

    def copier(self, *, at_work: bool) -> None:
        """Start or end it. Nothing happens if it already is in the wanted state."""
        if at_work != self.stack.runs(COPIER):
            (self.stack.start if at_work else self.stack.kill9)(COPIER)

    def waits(self, query: str) -> bool:
        """Whether a session on the destination waits for a lock with such a statement."""
        with psycopg.connect(self.dest) as conn:
            return conn.execute(_WAITING, [query]).fetchone() != (0,)
