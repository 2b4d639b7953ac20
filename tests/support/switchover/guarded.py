"""A destination that is read-only by default for others, as somebody else sees and changes it."""

from __future__ import annotations

from typing import LiteralString

import psycopg
from psycopg import conninfo, sql

from services.shared.model import MigrationView

SETTING = "default_transaction_read_only"
ASKS_TO_WRITE = f"-c {SETTING}=off"


def default(uri: str) -> str:
    """What a new session of somebody else has."""
    with psycopg.connect(uri) as conn:
        row = conn.execute("SELECT pg_catalog.current_setting(%s)", [SETTING]).fetchone()
    assert row is not None
    return str(row[0])


def alter(uri: str, what: LiteralString) -> None:
    """ALTER DATABASE."""
    name = sql.Identifier(str(conninfo.conninfo_to_dict(uri)["dbname"]))
    with psycopg.connect(uri, autocommit=True, options=ASKS_TO_WRITE) as conn:
        conn.execute(sql.SQL("ALTER DATABASE {} {}").format(name, sql.SQL(what)))


def write(uri: str, statement: LiteralString = "INSERT INTO item VALUES (1000)", options: str = "") -> None:
    with psycopg.connect(uri, options=options) as conn:
        conn.execute(statement)


def numbers(uri: str) -> list[int]:
    with psycopg.connect(uri) as conn:
        return [row[0] for row in conn.execute("SELECT id FROM item ORDER BY 1")]


def told(view: MigrationView, text: str) -> bool:
    return any(text in event.text for event in view.events)
