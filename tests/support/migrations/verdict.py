"""Whether a migration copied everything, and whether it left anything behind.

`checks` compares the source, to which nobody may write any more, with the destination, and both with the
application's record of its own commits. `left_on_source` and `left_on_destination` search the catalogs for
objects that a migration creates, with any id. They wait a moment for sessions that were just closed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import LiteralString

import psycopg
from psycopg import sql

from tests.support.data.catalog import TABLES, USER_SCHEMAS
from tests.support.data.compare import compare_databases
from tests.support.data.workload import WriterReport, check_conserved_sum, check_markers
from tests.support.servers.door import reopen

_GOING_S = 30.0
_POLL_S = 0.05

_ON_SOURCE: dict[str, LiteralString] = {
    "replication slot": "SELECT slot_name::text FROM pg_replication_slots"
    " WHERE database = current_database()",
    "publication": "SELECT pubname::text FROM pg_publication",
    "schema": "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'pgmig%'",
    "session": "SELECT concat_ws(' ', application_name, state, query) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name LIKE 'pgmig%'",
}
_ON_DESTINATION: dict[str, LiteralString] = {
    "replication origin": "SELECT roname FROM pg_replication_origin WHERE roname LIKE 'pgmig%'",
    "schema": "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'pgmig%'",
    "session": "SELECT concat_ws(' ', application_name, state, query) FROM pg_stat_activity"
    " WHERE datname = current_database() AND application_name LIKE 'pgmig%'",
}


@dataclass(frozen=True, slots=True)
class Check:
    """One check. problems: sentences; none if it passed."""

    title: str
    problems: tuple[str, ...]


def checks(source_uri: str, dest_uri: str, report: WriterReport) -> list[Check]:
    """Compare rows, sequences and definitions of both sides, and the application's record."""
    return [
        Check(
            "every row, sequence and definition is equal on both sides",
            tuple(compare_databases(source_uri, dest_uri)),
        ),
        Check("the balances still add up to the conserved sum", tuple(check_conserved_sum(dest_uri))),
        Check(
            f"all {len(report.acknowledged):,} acknowledged commits are on the destination, "
            f"none of the {len(report.rolled_back):,} rolled back",
            tuple(check_markers(dest_uri, report)),
        ),
    ]


def problems(found: list[Check]) -> list[str]:
    """All problems."""
    return [problem for check in found for problem in check.problems]


def exit_code(found: list[Check]) -> int:
    """0 if every check passed (and there was one), else 1."""
    return 0 if found and not problems(found) else 1


def left_on_source(uri: str) -> list[str]:
    """What a migration has left on the source database, a phrase each. Waits a while for objects to
    disappear."""
    return _left(reopen(uri), _ON_SOURCE)


def left_on_destination(uri: str) -> list[str]:
    """What a migration has left on the destination, except copied objects. Waits a while for it to
    disappear."""
    return _left(uri, _ON_DESTINATION)


def present_on_source(uri: str) -> list[str]:
    """What a migration has on the source database now, a phrase each."""
    with psycopg.connect(reopen(uri), autocommit=True) as conn:
        return _found(conn, _ON_SOURCE)


def present_on_destination(uri: str) -> list[str]:
    """What a migration has on the destination now, except copied objects."""
    with psycopg.connect(uri, autocommit=True) as conn:
        return _found(conn, _ON_DESTINATION)


def inventory(uri: str) -> set[str]:
    """Everything that a refused migration might have created or changed in a database, a phrase each."""
    queries: dict[str, LiteralString] = {
        **_ON_SOURCE,
        **_ON_DESTINATION,
        "any schema": "SELECT nspname::text FROM pg_namespace WHERE nspname NOT LIKE 'pg\\_%'",
        "relation": "SELECT concat_ws(' ', c.oid::regclass, relreplident) FROM pg_class c"
        " WHERE c.oid >= 16384 AND relnamespace <> 'pg_toast'::regnamespace",
        "setting": "SELECT setconfig::text FROM pg_db_role_setting"
        " WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())",
    }
    with psycopg.connect(reopen(uri), autocommit=True) as conn:
        return set(_found(conn, queries))


def _left(uri: str, queries: dict[str, LiteralString]) -> list[str]:
    deadline = time.monotonic() + _GOING_S
    with psycopg.connect(uri, autocommit=True) as conn:
        while (found := _found(conn, queries)) and time.monotonic() < deadline:
            time.sleep(_POLL_S)  # a server process does not report its end
    return found


def _found(conn: psycopg.Connection, queries: dict[str, LiteralString]) -> list[str]:
    return [f"{what} {row[0]}" for what, query in queries.items() for row in conn.execute(query)]


def count_rows(uri: str) -> int:
    """Rows of all tables."""
    with psycopg.connect(uri) as conn:
        tables = conn.execute(sql.SQL(TABLES).format(user=sql.SQL(USER_SCHEMAS))).fetchall()
        counts = [
            conn.execute(sql.SQL("SELECT count(*) FROM ONLY {}").format(sql.Identifier(*table))).fetchone()
            for table in tables
        ]
    return sum(row[0] for row in counts if row)
