"""Parts of a live database, and destinations that hold something, as one person moves them."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import psycopg
from psycopg import sql

from services.shared.model import (
    EventLevel,
    ExitCode,
    MigrationView,
    Phase,
    TableId,
)
from tests.support.data.workload import Writer
from tests.support.migrations.cli import COMMAND_TIMEOUT_S, Cli, program
from tests.support.migrations.verdict import inventory
from tests.support.servers.door import reopen

STREAMING_S = 120.0
FILTERS = (
    *("--exclude-table", "shop.ledger"),
    *("--exclude-table", 'public."Mixed "*'),
    *("--exclude-table", "shop.[a-c]*_bytes_*"),
    *("--exclude-table-data", "shop.events_2025_click"),
    *("--exclude-table-data", "shop.order_items"),
)
LONG = "a_name_as_long_as_names_may_be_sixty_three_bytes_and_no_more_xx"
LEFT_OUT = {TableId("shop", "ledger"), TableId("public", "Mixed Case"), TableId("shop", LONG)}
EMPTY = {TableId("shop", "events_2025_click"), TableId("shop", "order_items")}


def tables(uri: str) -> set[TableId]:
    with psycopg.connect(uri) as conn:
        found = conn.execute(
            "SELECT relnamespace::regnamespace::text, relname FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace::regnamespace::text IN ('shop', 'public')"
        )
        return {TableId(*row) for row in found}


def contents(uri: str, names: set[TableId]) -> dict[TableId, tuple[object, ...] | None]:
    """Of each table the number of rows and a checksum that does not depend on their order."""
    with psycopg.connect(uri) as conn:
        query = sql.SQL("SELECT count(*), sum(hashtextextended(t::text, 0)) FROM ONLY {} t")
        return {
            name: conn.execute(query.format(sql.Identifier(name.schema, name.name))).fetchone()
            for name in names
        }


def in_step(view: MigrationView) -> bool:
    return view.phase is Phase.STREAMING


def test_a_part_of_a_live_database_is_moved_across_an_interruption(
    shop: str, dest_db: str, tmp_path: Path, writer: Writer
) -> None:
    cli = Cli.on(shop, dest_db, tmp_path / "state", PGMIG_WORKER_GRACE_S="0.5")
    with cli.start("clone", "--follow", *FILTERS, log=tmp_path / "clone.log") as clone:
        view = clone.until(in_step, STREAMING_S)
        told = [event.text for event in view.events if event.level == EventLevel.WARNING]
        assert any("order_items" not in line and "ledger_source_id_fkey" in line for line in told), told
    writer.wait_for_commits(20)
    with cli.start("follow", log=tmp_path / "follow.log") as follow:
        follow.until(in_step, STREAMING_S)
        writer.wait_for_commits(20)
        done = cli.run("switchover", "--timeout", "30s")
        assert done.returncode == ExitCode.OK, done.stderr
    chosen = tables(reopen(shop)) - LEFT_OUT
    assert tables(dest_db) == chosen
    assert contents(dest_db, chosen - EMPTY) == contents(shop, chosen - EMPTY)
    assert {found and found[0] for found in contents(dest_db, EMPTY).values()} == {0}


def test_dropping_is_refused_to_a_script_and_asked_of_a_person(
    shop: str, dest_db: str, tmp_path: Path
) -> None:
    with psycopg.connect(dest_db) as conn:
        conn.execute("CREATE SCHEMA shop CREATE TABLE orders (id int) CREATE VIEW mine AS SELECT 1 AS one")
    cli = Cli.on(shop, dest_db, tmp_path / "state")
    before = inventory(shop), inventory(dest_db)
    refused = cli.run("clone", "--drop-if-exists")
    assert refused.returncode == ExitCode.REFUSED
    assert "  table shop.orders\n" in refused.stderr
    assert "shop.mine" not in refused.stderr
    assert (inventory(shop), inventory(dest_db)) == before
    assert asked(cli, "n\n", "clone", "--drop-if-exists") == ExitCode.REFUSED
    assert (inventory(shop), inventory(dest_db)) == before
    assert asked(cli, "y\n", "clone", "--drop-if-exists") == ExitCode.OK
    everything = tables(shop)
    assert contents(dest_db, everything) == contents(shop, everything)
    with psycopg.connect(dest_db) as conn:
        assert conn.execute("SELECT one FROM shop.mine").fetchone() == (1,)


def asked(cli: Cli, answer: str, *arguments: str) -> int:
    """The exit code of a command at a terminal that is answered when it asks."""
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            [*program(), *arguments],
            env=cli.environment,
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=theirs,
            start_new_session=True,
        ) as process:
            os.close(theirs)
            shown = b""
            while data := read(ours):
                shown += data
                if b"[y/N]" in shown:
                    os.write(ours, answer.encode())
                    shown = b""
            return process.wait(COMMAND_TIMEOUT_S)
    finally:
        os.close(ours)


def read(terminal: int) -> bytes:
    """What is shown next; nothing when the other side has gone."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
