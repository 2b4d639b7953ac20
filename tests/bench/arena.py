"""The servers of one run, which all contestants share, and functions to query them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from tests.support.servers.installs import PostgresInstall, newest, oldest
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.process import tail

_SETTINGS = {
    "max_wal_size": "8GB",
    "min_wal_size": "4GB",
    "shared_buffers": "512MB",
    "max_replication_slots": "60",
    "max_wal_senders": "60",
    # Left on, it works on what one contestant has written while the next is timed.
    "autovacuum": "off",
}
WAL_MB = 3000
_ORIGINS = {"max_active_replication_origins": "60"}  # from 18 on; max_replication_slots before


@dataclass(frozen=True, slots=True)
class Arena:
    source: PostgresServer
    destination: PostgresServer


@contextmanager
def arena(
    settings: Mapping[str, str] | None = None, install: PostgresInstall | None = None
) -> Iterator[Arena]:
    """A source and a destination of the oldest (or `install`) and the newest major version at hand."""
    given = {**_SETTINGS, **(settings or {})}
    there = {**given, **(_ORIGINS if newest().major >= 18 else {})}
    with (
        PostgresServer(install or oldest(), settings=given) as source,
        PostgresServer(newest(), settings=there) as destination,
    ):
        _make_wal_files(destination.uri())
        try:
            yield Arena(source, destination)
        except psycopg.OperationalError as exc:
            for name, server in (("source", source), ("destination", destination)):
                exc.add_note(f"the {name}'s log ends with:\n{tail(server.log_path)}")
            raise


def _make_wal_files(uri: str) -> None:
    """Create the WAL files before the contest. PostgreSQL zeroes and syncs a new WAL file, and reuses it
    after a checkpoint. Without this, the first contestant would create the files for all later ones."""
    message = "pg_logical_emit_message(false, 'bench', repeat('x', 1 << 20))"
    run_sql(uri, f"SELECT count({message}) FROM generate_series(1, {WAL_MB})", "SELECT pg_switch_wal()")
    run_sql(uri, "CHECKPOINT")


def run_sql(uri: str, *statements: str) -> None:
    """One after the other, each a transaction of its own."""
    with psycopg.connect(uri, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


def value(uri: str, query: str) -> str:
    """The first column of the first row, as text."""
    with psycopg.connect(uri, autocommit=True) as conn:
        row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return str(row[0])


def drop_slot(uri: str, slot: str) -> None:
    """A walsender may still be about to end."""
    run_sql(
        uri,
        f"SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots"
        f" WHERE slot_name = '{slot}' AND active_pid IS NOT NULL",
        f"SELECT pg_drop_replication_slot('{slot}')",
    )


_TABLES = """
    SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgmig', 'pgcopydb')
    ORDER BY 1"""


def fingerprint(uri: str) -> dict[str, tuple[int, str]]:
    """Of every table: rows, and a sum of the rows' hashes that does not depend on their order."""
    with psycopg.connect(uri, autocommit=True) as conn:
        names = [str(row[0]) for row in conn.execute(_TABLES.encode())]
        found = {}
        for name in names:
            query = f"SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM {name} t"
            row = conn.execute(query.encode()).fetchone()
            assert row is not None
            found[name] = (int(row[0]), str(row[1]))
    return found


def definitions(uri: str) -> tuple[int, int, int]:
    """How many valid indexes, constraints and foreign keys the user's tables have."""
    user = "n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgmig', 'pgcopydb')"
    counts = (
        f"SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid"
        f" JOIN pg_namespace n ON n.oid = c.relnamespace WHERE i.indisvalid AND {user}",
        f"SELECT count(*) FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace"
        f" WHERE k.contype IN ('p', 'u', 'f', 'c') AND k.convalidated AND {user}",
        f"SELECT count(*) FROM pg_constraint k JOIN pg_namespace n ON n.oid = k.connamespace"
        f" WHERE k.contype = 'f' AND {user}",
    )
    indexes, constraints, keys = (int(value(uri, query)) for query in counts)
    return indexes, constraints, keys
