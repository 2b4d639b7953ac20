"""Opens a source that a switchover has closed, so that tests can read it, and closes it again."""

from __future__ import annotations

import psycopg
from psycopg import conninfo, sql


def session(uri: str) -> psycopg.Connection:
    """An autocommit session, also on a source that a switchover has closed: it is opened first."""
    try:
        return psycopg.connect(uri, autocommit=True)
    except psycopg.OperationalError:
        return psycopg.connect(reopen(uri), autocommit=True)


def reopen(uri: str) -> str:
    """Let the database accept connections again, if it does not; needs the database's owner. Returns
    `uri`."""
    try:
        psycopg.connect(uri, connect_timeout=10).close()
    except psycopg.OperationalError as exc:
        if "not currently accepting connections" not in str(exc):
            raise
        _set_open(uri, accepts=True)
    return uri


def close(uri: str) -> None:
    """Let the database accept no connections."""
    _set_open(uri, accepts=False)


def _set_open(uri: str, *, accepts: bool) -> None:
    name = str(conninfo.conninfo_to_dict(uri)["dbname"])
    with psycopg.connect(conninfo.make_conninfo(uri, dbname="postgres"), autocommit=True) as conn:
        statement = sql.SQL("ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}")
        conn.execute(statement.format(sql.Identifier(name), sql.Literal(accepts)))
