"""Finds the primary among the servers that a connection string names.

A connection string may name a primary and its standbys. After a failover another one of them is the primary,
and the former primary may still run, or run again. Sessions that each chose a server of the list could use
two different ones. So the primary is found once, and all sessions use a connection string with its host only
until it is found again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.session.connection import connect, translated
from services.shared.pg.session.uri import each_server, endpoint

_IDENTITY = """
SELECT system_identifier::text,
       pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8)
  FROM pg_catalog.pg_control_system()
"""

OTHERS_S = 2.0
"""How long servers are waited for that may have been promoted, while the known primary still is one."""


@dataclass(frozen=True, slots=True)
class Primary:
    """uri: with one host."""

    uri: str
    system_identifier: str
    timeline: int


async def find_primary(
    uri: str, side: str, system_identifier: str = "", database: str = "", known: str = ""
) -> str:
    """`uri` with the host of the primary only. If it names one host: `uri`, without asking the server.

    Of several primaries of one system, the one on the latest timeline was promoted last. system_identifier:
    of the recorded database; servers of other systems are not considered. database: one of the same server
    to connect to if the URI's accepts no connections. known: the result of the last search. If that server is
    still a primary, the others get only OTHERS_S more: a host that is down would take as long as the time-out
    of a connection. Raises UNREACHABLE if no server is a primary.
    """
    choices = each_server(uri, side)
    if len(choices) == 1:
        return uri
    answers = await _answers([_look(one, side, database) for one in choices], known)
    found = [answer for answer in answers if isinstance(answer, Primary)]
    ours = [one for one in found if system_identifier in {"", one.system_identifier}]
    if not ours:
        raise _no_primary(uri, side, answers)
    if len({one.system_identifier for one in ours}) > 1:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"several servers of the {side} {endpoint(uri).address} are primaries, and they are no copies of "
            "each other",
            "name a primary and its own standbys only",
        )
    return max(ours, key=lambda one: one.timeline).uri


async def _answers(
    looks: Sequence[Coroutine[Any, Any, Primary | PgmigError]], known: str
) -> list[Primary | PgmigError]:
    """Of all servers, or of those that have answered in time while the known primary still is one."""
    tasks = [asyncio.create_task(look, name="look for primary") for look in looks]
    try:
        pending = set(tasks)
        while pending and not _still_primary(tasks, known):
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        if pending:
            await asyncio.wait(pending, timeout=OTHERS_S)
        return [task.result() for task in tasks if task.done()]
    finally:
        for task in tasks:
            task.cancel()


def _still_primary(looks: Sequence[asyncio.Task[Primary | PgmigError]], known: str) -> bool:
    """Whether the server of `known` has answered, and is a primary."""
    answers = [look.result() for look in looks if look.done()]
    return any(isinstance(answer, Primary) and answer.uri == known for answer in answers)


async def _look(uri: str, side: str, database: str) -> Primary | PgmigError:
    try:
        return await read_primary(uri, side)
    except PgmigError as exc:
        if exc.kind is not ErrorKind.DATABASE_CLOSED or not database:
            return exc
    try:
        return await read_primary(uri, side, database)
    except PgmigError as exc:
        return exc


async def read_primary(uri: str, side: str, database: str = "") -> Primary:
    """System and timeline of the server. A standby is refused. database: as for `connect`."""
    conn = await connect(uri, side, database=database)
    try:
        with translated(f"identifying the server of the {side}"):
            row = await (await conn.execute(_IDENTITY)).fetchone()
    finally:
        await conn.close()
    assert row is not None
    return Primary(uri, row[0], int(row[1], 16))


def _no_primary(uri: str, side: str, answers: Sequence[Primary | PgmigError]) -> PgmigError:
    errors = [answer for answer in answers if isinstance(answer, PgmigError)]
    others = [answer for answer in answers if isinstance(answer, Primary)]
    texts = [error.message for error in errors]
    texts += [f"{endpoint(one.uri).address} is a primary of another system" for one in others]
    kinds = {error.kind for error in errors}
    closed = ErrorKind.DATABASE_CLOSED in kinds
    kind = ErrorKind.DATABASE_CLOSED if closed else ErrorKind.UNREACHABLE
    if len(kinds) == 1 and not others:
        kind = kinds.pop()
    return PgmigError(
        kind,
        f"no server of the {side} {endpoint(uri).address} is the primary: {'; '.join(texts)}",
        "start the primary, or promote a standby",
    )
