"""Errors of a table's copy: their kinds, and their messages without row values.

PostgreSQL quotes the invalid value in the primary message of data exceptions (class 22: `invalid input syntax
for type integer: "..."`). Messages of the server's other classes quote names of columns, constraints and
types, which are kept. An error of any other class comes from a user's own function, whose message may contain
anything.
"""

from __future__ import annotations

import re

import psycopg

from services.shared.model import ErrorKind, PgmigError, TableId
from services.shared.pg.session.connection import disk_full, translate

_DATA_EXCEPTION = re.compile(r"22(?!P04)...")  # 22P04 is about the format and names columns
_SERVERS_OWN = re.compile("(08|0A|21|22|23|25|28|2B|3F|40|42|53|54|55|57|58|F0|XX)...")
_NAMES_A_KEY = frozenset({"23505", "23P01"})
"""Unique and exclusion violations: the detail is `Key (id)=(5) already exists.`"""
_NOT_CONVERTED = "22P05"
"""Values are sent as they are stored, so this can only be about a message."""
LONGEST_KEY = 500
"""Maximum number of characters of the detail with the key."""
_QUOTED = re.compile(r'".*"', re.DOTALL)
_BYTES = re.compile(r"(?:\b0x[0-9a-fA-F]{2} ?)+")
SNAPSHOT_GONE = {
    "22023",  # invalid snapshot identifier: its file is gone (up to PostgreSQL 16)
    "42704",  # snapshot "..." does not exist (from 17 on)
    "55000",  # its transaction ended during the import
}
"""SQLSTATEs of SET TRANSACTION SNAPSHOT for which a retry is useless."""


class FramingError(Exception):
    """The bytes are not messages of the protocol: the reader has lost the message boundaries."""


def without_values(sqlstate: str, message: str) -> str:
    """A primary message without parts that may be values of a row."""
    if not _SERVERS_OWN.fullmatch(sqlstate):
        return "the server refused a row"
    if _DATA_EXCEPTION.fullmatch(sqlstate):
        return _BYTES.sub("...", _QUOTED.sub('"..."', message))
    return message


class ServerError(psycopg.Error):
    """An error that a server reported during a COPY, without the parts that quote a row (detail and context),
    except for the key that a unique constraint refuses. side: source or destination."""

    def __init__(self, sqlstate: str, primary: str, side: str, detail: str = "") -> None:
        text = without_values(sqlstate, primary or "no reason given")
        if sqlstate in _NAMES_A_KEY and detail:
            text += f": {detail[:LONGEST_KEY].rstrip('.')}"
        super().__init__(text)
        self.sqlstate = sqlstate or None
        self.side = side


def snapshot_lost(table: TableId) -> PgmigError:
    return PgmigError(
        ErrorKind.SNAPSHOT_LOST,
        f"the snapshot to copy {table} under no longer exists on the source",
        "the session that held it has ended: the table is copied under a new one",
    )


def table_changed(table: TableId) -> PgmigError:
    return PgmigError(
        ErrorKind.TABLE_CHANGED,
        f"{table} was truncated, rewritten, altered, renamed or dropped on the source after the snapshot"
        " for its copy was taken",
        "the table is copied under a new snapshot",
    )


def copy_failure(table: TableId, exc: psycopg.Error) -> PgmigError:
    """Convert any error of the copy of `table`. The result is COPY_FAILED, unless a retry or other privileges
    can solve the error."""
    error = translate(exc, f"copying {table}")
    if error.kind is ErrorKind.DISK_FULL:
        # Except for the COPY itself, only the destination is written to.
        side = exc.side if isinstance(exc, ServerError) else "destination"
        return disk_full(f"copying {table}", f" on the {side}", exc.diag.message_primary or str(exc))
    if error.kind is not ErrorKind.INTERNAL:
        return error
    return PgmigError(ErrorKind.COPY_FAILED, error.message, _hint(exc.sqlstate or ""), error.lsn)


def _hint(sqlstate: str) -> str:
    if sqlstate in {"42P01", "3F000", "42703", "42804"}:
        return "the destination's schema differs from the source's: start again with an empty destination"
    if sqlstate == _NOT_CONVERTED:
        return (
            "the destination refuses a row, and cannot send the reason, because its message quotes text "
            "without an equivalent in UTF-8: see that server's log, correct the cause, then continue"
        )
    if sqlstate.startswith("22"):
        return "the destination cannot store a value of the source: compare column types and encodings"
    if sqlstate.startswith("23"):
        return "a constraint of the destination refuses a row that the source holds"
    return "see the server's log for the row, correct the cause, then continue"
