"""Runs one statement on a database in a session of its own."""

from __future__ import annotations

from typing import LiteralString

import psycopg


def fetch(uri: str, query: LiteralString) -> list[tuple[object, ...]]:
    with psycopg.connect(uri) as connection:
        return connection.execute(query).fetchall()


def change(uri: str, statements: LiteralString) -> None:
    with psycopg.connect(uri) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(statements)
