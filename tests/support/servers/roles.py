"""The destination role without superuser rights, created with the SQL of docs/operating.md."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from tests.support.servers.door import reopen
from tests.support.servers.postgres import PostgresServer

_MANUAL = Path(__file__).parents[3] / "docs" / "operating.md"
_HEADING = "## A destination role that is no superuser"


def recipe() -> str:
    """The manual's SQL, with roles `mover`, `owner_1` and `owner_2` and a database `app`."""
    section = _MANUAL.read_text().partition(_HEADING)[2]
    found = re.search(r"```sql\n(.*?)```", section, re.DOTALL)
    assert found is not None, "the manual has lost its recipe"
    return found[1]


@contextmanager
def plain_role(server: PostgresServer, uri: str, owners: Sequence[str]) -> Iterator[str]:
    """The URI of the database `uri` as that role. owners: both roles that own objects of the source.
    At the end everything in the database becomes the superuser's."""
    database, mover = urlsplit(uri).path.lstrip("/"), f"mover_{secrets.token_hex(4)}"
    text = recipe().replace("'choose one'", f"'{mover}'")
    for name, value in zip(("mover", "app", "owner_1", "owner_2"), (mover, database, *owners), strict=True):
        text = re.sub(rf"\b{name}\b", lambda _, value=value: value, text)  # type: ignore[misc]
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute(text.encode())
    try:
        yield server.uri(database, mover, mover)
    finally:
        remove_roles(server, uri, [mover])


def remove_roles(server: PostgresServer, uri: str, roles: Sequence[str]) -> None:
    """Drop them; what they own in the database `uri` becomes the superuser's."""
    reopen(uri)
    with psycopg.connect(uri, autocommit=True) as conn:
        conn.execute("SET default_transaction_read_only = off")
        for role in map(sql.Identifier, roles):
            conn.execute(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(role))
            conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
    for role in map(sql.Identifier, roles):
        server.execute(sql.SQL("DROP ROLE {}").format(role))
