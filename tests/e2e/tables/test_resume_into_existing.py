"""A copy into a destination that held something, and that failed half way: what has been agreed to and
done is neither asked for nor done again."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from services.shared.model import ExitCode, MigrationOptions, MigrationView, Phase
from tests.support.data.workload import Writer
from tests.support.migrations.cli import Cli
from tests.support.migrations.live import FOLLOW, HELD, Live, all_but_held_copied, eventually, held_up
from tests.support.migrations.stack import COORDINATOR, Stack
from tests.support.migrations.verdict import checks, left_on_destination, left_on_source, problems
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer
from tests.support.switchover.guarded import ASKS_TO_WRITE

pytestmark = pytest.mark.timeout(240)

MIGRATION = "again"
CLI_S = 60.0
MODES = {
    "--data-only": replace(FOLLOW, data_only=True),
    "--drop-if-exists": replace(FOLLOW, drop_if_exists=True),
}
OLD_ROWS = (
    "REFRESH MATERIALIZED VIEW shop.totals_by_status",
    "INSERT INTO shop.settings VALUES ('old', 'of before')",
    "INSERT INTO shop.accounts (id, owner, code, balance) VALUES (987654, 'a@b', 'old', 0)",
    "INSERT INTO shop.orders (account_id) VALUES (987654)",
)

Written = dict[str, set[str]]


@pytest.fixture
def occupied(shop: str, dest_db: str, dest_server: PostgresServer) -> str:
    """A destination with the source's schema, indexes and keys included, and rows of its own."""
    dump = subprocess.run(
        [dest_server.bin_dir / "pg_dump", "--schema-only", "--format=custom", f"--dbname={shop}"],
        stdout=subprocess.PIPE,
        check=True,
    )
    subprocess.run([dest_server.bin_dir / "pg_restore", f"--dbname={dest_db}"], input=dump.stdout, check=True)
    with psycopg.connect(dest_db) as conn:
        for statement in OLD_ROWS:
            conn.execute(statement)
    return dest_db


@dataclass(frozen=True, slots=True)
class Bed:
    """Services without copiers, so that the copy waits at its beginning. source, dest: URIs."""

    stack: Stack
    source: str
    dest: str


@pytest.fixture
def bed(shop: str, occupied: str, nats_server: NatsServer, tmp_path: Path) -> Iterator[Bed]:
    uris = {"PGMIG_SOURCE_URI": shop, "PGMIG_DEST_URI": occupied}
    with Stack(nats_server, tmp_path, workers=("decoder", "applier"), settings=uris) as stack:
        yield Bed(stack, shop, occupied)


@pytest.fixture(params=MODES)
def options(request: pytest.FixtureRequest) -> MigrationOptions:
    return MODES[request.param]


def written(dest: str) -> Written:
    """Table to the transactions that wrote its rows; without the held up table."""
    with psycopg.connect(dest) as conn:
        conn.execute("SET search_path = ''")
        tables = conn.execute(
            "SELECT relnamespace::regnamespace::text, relname FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace::regnamespace::text IN ('shop', 'public') AND relname <> %s",
            [HELD],
        ).fetchall()
        query = sql.SQL("SELECT DISTINCT xmin::text FROM ONLY {}")
        return {
            ".".join(name): {row[0] for row in conn.execute(query.format(sql.Identifier(*name)))}
            for name in tables
        }


async def begin(live: Live, options: MigrationOptions) -> None:
    """Agree to what is lost, as the operator does, and wait for the copy."""
    plan = await live.session.plan(MIGRATION, live.source, live.dest, options)
    assert plan.token
    await live.start(replace(options, confirmed=plan.token))
    await live.until_phase(Phase.COPY)


@pytest.mark.parametrize("killed", ["copier-1", COORDINATOR, "decoder", "all of them"])
async def test_killed_during_the_copy_it_resumes_by_itself(
    killed: str, options: MigrationOptions, bed: Bed, writer: Writer
) -> None:
    victims = (COORDINATOR, "decoder", "applier", "copier-1") if killed == "all of them" else (killed,)
    async with bed.stack.session() as session:
        live = Live(session, MIGRATION, bed.source, bed.dest)
        await begin(live, options)
        with held_up(bed.dest):
            bed.stack.start("copier-1")
            await live.until(all_but_held_copied)
            before = written(bed.dest)
            bed.stack.kill9(*victims)
            writer.wait_for_commits(40)
            bed.stack.start(*victims)
            await live.until(lambda view: all_but_held_copied(view) and "copier" in roles(view))
            assert written(bed.dest) == before
        await live.finish(writer)
        await session.cleanup(MIGRATION)
    assert left_on_source(bed.source) == []
    assert left_on_destination(bed.dest) == []


def roles(view: MigrationView) -> set[str]:
    return {worker.role for worker in view.workers if not worker.lost}


async def test_a_row_that_was_refused_is_copied_when_the_cause_is_gone(
    options: MigrationOptions, bed: Bed, writer: Writer
) -> None:
    async with bed.stack.session() as session:
        live = Live(session, MIGRATION, bed.source, bed.dest)
        await begin(live, options)
        with psycopg.connect(bed.dest, autocommit=True, options=ASKS_TO_WRITE) as conn:
            conn.execute("ALTER TABLE shop.orders ADD CONSTRAINT refused CHECK (id <> 1) NOT VALID")
            with held_up(bed.dest):
                bed.stack.start("copier-1")
                await live.until(all_but_held_copied)
                before = written(bed.dest)
            async for view in session.follow(MIGRATION):
                if view.phase is Phase.FAILED:
                    break
            assert view.failure is not None
            assert view.failure.kind == "COPY_FAILED"
            assert "shop.orders" in view.failure.message
            assert '"refused"' in view.failure.message
            assert written(bed.dest) == before
            conn.execute("ALTER TABLE shop.orders DROP CONSTRAINT refused")
        with held_up(bed.dest):
            await session.resume(MIGRATION, bed.source, bed.dest)
            view = await live.until_event("the snapshot was lost")
            assert not any("no longer exists" in event.text for event in view.events), "nobody tried it"
            await live.until(lambda view: all_but_held_copied(view) and "copier" in roles(view))
            assert written(bed.dest) == before
        await live.finish(writer)


@pytest.mark.parametrize("mode", MODES)
def test_a_killed_command_is_continued_without_being_asked(
    mode: str, shop: str, occupied: str, tmp_path: Path, writer: Writer
) -> None:
    """Killed amid the copy, or while objects are being dropped."""
    cli = Cli.on(shop, occupied, tmp_path / "state", PGMIG_WORKER_GRACE_S="0.5")
    refused = cli.run("clone", "--follow", mode)
    assert refused.returncode == ExitCode.REFUSED
    assert "shop.orders" in refused.stderr
    with (
        held_up(occupied),
        cli.start("clone", "--follow", mode, "--yes", log=tmp_path / "clone.log") as clone,
    ):
        if mode == "--data-only":
            clone.until(all_but_held_copied, CLI_S)
        else:
            clone.until(lambda view: bool(view.tables), CLI_S)
            eventually(lambda: dropping(occupied), "an object is being dropped")
        assert clone.stop(signal.SIGKILL) == -signal.SIGKILL
    writer.wait_for_commits(40)
    with cli.start("follow", log=tmp_path / "follow.log") as follow:
        follow.until(lambda view: view.phase is Phase.STREAMING, CLI_S)
        done = cli.run("switchover")
        assert done.returncode == ExitCode.OK, done.stderr
        report = writer.wait_until_cut_off()
        assert follow.wait() == ExitCode.OK
    assert problems(checks(shop, occupied, report)) == []


def dropping(dest: str) -> bool:
    query = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DROP %'"
    with psycopg.connect(dest) as conn:
        return conn.execute(query).fetchone() is not None
