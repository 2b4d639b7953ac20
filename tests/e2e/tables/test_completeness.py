"""One of each kind of thing that a database may hold, moved while an application writes."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import unified_diff
from itertools import count
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from services.shared.model import ExitCode, Phase
from tests.support.data.compare import compare_databases
from tests.support.data.schema import seed
from tests.support.environment import clean_environment
from tests.support.migrations.cli import Cli
from tests.support.migrations.live import application
from tests.support.migrations.verdict import checks, left_on_destination, left_on_source, problems
from tests.support.servers.extension import with_extension
from tests.support.servers.installs import newest, oldest
from tests.support.servers.postgres import PostgresServer

STREAMING_S = 60.0
EVERYTHING = Path(__file__).parents[2] / "support" / "data" / "everything.sql"
ROLES: tuple[LiteralString, ...] = ("CREATE ROLE everything_owner", "CREATE ROLE everything_reader")

# What no dump of a database's content tells, beside rows and sequences.
LARGE_OBJECTS: LiteralString = """
    SELECT m.oid::int8, length(lo_get(m.oid)), sha256(lo_get(m.oid)), lomowner::regrole::text,
           (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(lomacl) a),
           obj_description(m.oid, 'pg_largeobject')
    FROM pg_largeobject_metadata m ORDER BY 1"""
DATABASE: LiteralString = """
    SELECT (SELECT array_agg(concat_ws(' ', r.rolname, c) ORDER BY r.rolname, c)
              FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = setrole, unnest(setconfig) c
             WHERE setdatabase = d.oid AND c NOT LIKE 'default_transaction_read_only%'),
           (SELECT array_agg(a::text ORDER BY a::text) FROM unnest(datacl) a),
           shobj_description(d.oid, 'pg_database')
    FROM pg_database d WHERE datname = current_database()"""
MATERIALIZED: LiteralString = (
    "SELECT (SELECT array_agg(z::text) FROM every.z_first z), a.* FROM every.a_second a"
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two servers with what databases share, and a database on each. source, dest: URIs."""

    source_server: PostgresServer
    dest_server: PostgresServer
    source: str = field(repr=False)
    dest: str = field(repr=False)


@pytest.fixture
def pair() -> Iterator[Pair]:
    installs = with_extension(oldest()), with_extension(newest())
    if installs[0] is None or installs[1] is None:
        pytest.skip("needs servers that can be copied, to put an extension into them")
    with PostgresServer(installs[0], fsync=False) as old, PostgresServer(installs[1], fsync=False) as new:
        for server in (old, new):
            for role in ROLES:
                server.execute(role)
        source = old.create_database("app")
        old.execute("CREATE ROLE source_only")
        seed(source, 1_000)
        with psycopg.connect(source) as conn:
            conn.execute(EVERYTHING.read_bytes())
        run(
            source,
            "ALTER DATABASE app SET search_path = every, \"$user\", 'odd, name'",
            "ALTER DATABASE app SET work_mem = '5MB'",
            "ALTER DATABASE app SET lab.custom = 'it''s mine'",
            "ALTER ROLE everything_reader IN DATABASE app SET statement_timeout = '30s'",
            "COMMENT ON DATABASE app IS 'All of it'",
            "REVOKE TEMPORARY ON DATABASE app FROM PUBLIC",
            "GRANT CREATE ON DATABASE app TO everything_owner",
        )
        yield Pair(old, new, source, new.create_database("moved"))


def run(uri: str, *statements: LiteralString) -> None:
    with psycopg.connect(uri, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement)


def rows(uri: str, query: LiteralString) -> list[tuple[object, ...]]:
    with psycopg.connect(uri, autocommit=True) as conn:
        return conn.execute(query).fetchall()


def definitions(server: PostgresServer, uri: str) -> list[str]:
    """`pg_dump --schema-only`, without what tells when and by which program it was made."""
    done = subprocess.run(
        [server.bin_dir / "pg_dump", "--schema-only", "--no-password", "--dbname", uri],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return [
        re.sub(r" CONSTRAINT \S+ NOT NULL", " NOT NULL", line)  # named from version 18 on
        for line in done.stdout.splitlines()
        if line and not re.match(r"-- Dumped |\\(un)?restrict |--$", line)
    ]


def check_equal(pair: Pair) -> None:
    """Definitions, large objects, the database's own settings; rows and sequences are the verdict's."""
    # The newer pg_dump reads both, so that one program's words are compared.
    ours, theirs = (definitions(pair.dest_server, uri) for uri in (pair.source, pair.dest))
    assert "\n".join(unified_diff(ours, theirs, lineterm="", n=2)) == ""
    assert rows(pair.dest, LARGE_OBJECTS) == rows(pair.source, LARGE_OBJECTS)
    assert rows(pair.dest, DATABASE) == rows(pair.source, DATABASE)
    assert rows(pair.dest, "SELECT relispopulated FROM pg_class WHERE relname = 'unfilled'") == [(False,)]


def test_everything_arrives_while_an_application_writes(pair: Pair, tmp_path: Path) -> None:
    cli = Cli.on(pair.source, pair.dest, tmp_path / "state")
    with (
        application(pair.source) as writer,
        cli.start("clone", "--follow", log=tmp_path / "clone.log") as clone,
    ):
        view = clone.until(lambda view: view.phase is Phase.STREAMING, STREAMING_S)
        told = "\n".join(event.text for event in view.events)
        assert "unlogged tables are copied once, their later changes are not: every.scratchpad" in told
        assert "their rows are not copied: every.far" in told
        assert "6 large objects" in told
        assert rows(pair.dest, MATERIALIZED) == rows(pair.source, MATERIALIZED)
        change_everything(pair.source)
        writer.wait_for_commits(20)
        late = write_until_cut_off(pair.source)
        done = cli.run("switchover")
        assert done.returncode == ExitCode.OK, done.stderr
        report = writer.wait_until_cut_off()
        late.join()
        assert clone.wait() == ExitCode.OK
    assert problems(checks(pair.source, pair.dest, report)) == []
    assert cli.run("cleanup").returncode == ExitCode.OK
    check_equal(pair)
    assert left_on_source(pair.source) == []
    assert left_on_destination(pair.dest) == []


def write_until_cut_off(source: str) -> threading.Thread:
    """Writes where no change stream looks, up to the freeze; returns when the first ones are done."""
    begun = threading.Event()

    def write() -> None:
        with suppress(psycopg.Error), psycopg.connect(source, autocommit=True) as conn:
            for number in count():
                conn.execute("SELECT lo_put(70007, 10, %s::text::bytea)", [str(number)])
                conn.execute("UPDATE public.lab_settings SET value = %s WHERE mine", [str(number)])
                begun.set()

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    assert begun.wait(STREAMING_S)
    return thread


def change_everything(source: str) -> None:
    """Writes to all that may be followed, and to what only the switchover brings along."""
    run(
        source,
        "INSERT INTO every.main (mood, share) SELECT 'ok', i FROM generate_series(1, 20) i",
        "UPDATE every.main SET share = share / 2 WHERE id < 300",
        "DELETE FROM every.main WHERE id = 150",
        "UPDATE every.parted SET part = 'a' WHERE id < 20",
        "INSERT INTO every.animal VALUES (3, 'emu')",
        "UPDATE every.animal SET name = upper(name)",
        "INSERT INTO every.child VALUES (50, 100)",
        "INSERT INTO every.typed VALUES (2, 'late')",
        "SELECT nextval('every.free'), nextval('public.lab_counter')",
        "UPDATE public.lab_settings SET value = 'changed' WHERE name = 'mine'",
        "DELETE FROM public.lab_settings WHERE name = 'other'",
        "SELECT lo_put(70003, 600000, '\\x00'), lo_unlink(70005), lo_from_bytea(70007, 'late')",
        "GRANT UPDATE ON LARGE OBJECT 70006 TO everything_reader",
    )


def test_a_plain_clone_is_complete_too(pair: Pair, tmp_path: Path) -> None:
    cli = Cli.on(pair.source, pair.dest, tmp_path / "state")
    done = cli.run("clone")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "\n".join(compare_databases(pair.source, pair.dest)) == ""
    assert rows(pair.dest, MATERIALIZED) == rows(pair.source, MATERIALIZED)
    assert cli.run("cleanup").returncode == ExitCode.OK
    check_equal(pair)
    assert compare_databases(pair.source, pair.dest) == [], "the cleanup fired no event trigger"


@pytest.mark.parametrize("mode", ["--drop-if-exists", "--data-only"])
def test_everything_arrives_where_everything_is_already(mode: str, pair: Pair, tmp_path: Path) -> None:
    cli = Cli.on(pair.source, pair.dest, tmp_path / "state")
    assert cli.run("clone").returncode == ExitCode.OK
    assert cli.run("cleanup").returncode == ExitCode.OK
    run(
        pair.source,
        "UPDATE every.main SET share = share / 2 WHERE id < 300",
        "DELETE FROM every.child WHERE id > 5",
        "SELECT nextval('every.free')",
    )
    run(pair.dest, "INSERT INTO every.parted VALUES (1000, 'a', 'to go')")
    refused = cli.run("clone", mode)
    assert refused.returncode == ExitCode.REFUSED
    assert "every.main" in refused.stderr
    for others in ("6 large objects", "cast (every.mood AS integer)", "public.lab_settings"):
        assert (others in refused.stderr) is (mode == "--drop-if-exists")
    done = cli.run("clone", mode, "--yes")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "\n".join(compare_databases(pair.source, pair.dest)) == ""
    assert cli.run("cleanup").returncode == ExitCode.OK
    check_equal(pair)


def test_without_owners_and_privileges_no_role_is_needed(pair: Pair, tmp_path: Path) -> None:
    run(
        pair.source,
        "ALTER TABLE every.typed OWNER TO source_only",
        "GRANT SELECT ON every.cat TO source_only",
    )
    cli = Cli.on(pair.source, pair.dest, tmp_path / "state")
    refused = cli.run("clone")
    assert refused.returncode == ExitCode.REFUSED
    assert "roles of the source are missing on the destination: source_only" in refused.stderr
    assert "--no-owner --no-acl" in refused.stderr
    only = cli.run("clone", "--no-owner")
    assert only.returncode == ExitCode.REFUSED
    assert "--no-acl" in only.stderr
    assert "--no-owner" not in only.stderr
    done = cli.run("clone", "--no-owner", "--no-acl")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "\n".join(compare_databases(pair.source, pair.dest)) == ""
    owners = (
        "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relnamespace = 'every'::regnamespace"
    )
    assert rows(pair.dest, owners) == [("postgres",)]
    granted = "SELECT FROM pg_class WHERE relnamespace = 'every'::regnamespace AND relacl IS NOT NULL"
    assert rows(pair.dest, granted) == []
    assert rows(pair.dest, "SELECT FROM pg_largeobject_metadata WHERE lomacl IS NOT NULL") == []


pytestmark = pytest.mark.timeout(240)
