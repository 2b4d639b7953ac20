"""Large objects: copied, and synchronized again, through two ordinary sessions.

pgoutput does not send their changes. So there is one operation, `synchronise`. Afterwards the destination has
the source's large objects, with their contents, owners, privileges and comments, and no others. Objects are
processed in windows by OID, each in one destination transaction. For objects that exist on both sides, each
server computes digests of its own copy, and only objects with different digests are sent. So a retry after
any failure continues where it stopped. The second run, during the switchover, costs little more than reading
the objects on both servers.

Contents are sent in chunks of CHUNK bytes, for PER_STATEMENT objects at a time. The product of these limits
the use of memory. The OID of an object is its name, and the application's rows contain it. So the OID is
kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, LiteralString

from psycopg import AsyncConnection, sql

from services.shared.pg.session.connection import translated

CHUNK = 512 * 1024
PER_STATEMENT = 16
WINDOW = 500

_LAST_OID = 2**32 - 1
_LISTED: LiteralString = """
    SELECT m.oid::bigint,
           pg_catalog.pg_get_userbyid(m.lomowner)::text,
           coalesce((SELECT json_agg(json_build_array(
                                CASE WHEN a.grantee = m.lomowner THEN NULL
                                     WHEN a.grantee = 0 THEN ''
                                     ELSE pg_catalog.pg_get_userbyid(a.grantee) END,
                                a.privilege_type, a.is_grantable))
                       FROM pg_catalog.aclexplode(
                                coalesce(m.lomacl, pg_catalog.acldefault('L', m.lomowner))) a), '[]'),
           d.description
      FROM pg_catalog.pg_largeobject_metadata m
      LEFT JOIN pg_catalog.pg_description d
        ON d.classoid = 'pg_catalog.pg_largeobject'::pg_catalog.regclass AND d.objoid = m.oid
     WHERE m.oid > %s::bigint::pg_catalog.oid AND m.oid <= %s::bigint::pg_catalog.oid
     ORDER BY m.oid
     LIMIT %s"""
_DIGESTS: LiteralString = """
    SELECT o, (WITH RECURSIVE piece (number, hash, more) AS (
                    SELECT 0::bigint, sha256(b), length(b) = %(chunk)s
                      FROM pg_catalog.lo_get(o::pg_catalog.oid, 0, %(chunk)s) b
                    UNION ALL
                    SELECT number + 1, sha256(b), length(b) = %(chunk)s
                      FROM piece, LATERAL pg_catalog.lo_get(
                               o::pg_catalog.oid, (number + 1) * %(chunk)s, %(chunk)s) b
                     WHERE more)
               SELECT sha256(string_agg(hash, ''::bytea ORDER BY number)) FROM piece)
      FROM unnest(%(oids)s::bigint[]) o"""

Grant = tuple[str | None, str, bool]
"""Grantee (None: the owner, "": PUBLIC), privilege, whether it has the grant option."""


@dataclass(frozen=True, slots=True)
class LargeObject:
    oid: int
    owner: str
    grants: frozenset[Grant]
    comment: str | None


@dataclass(slots=True)
class Outcome:
    """The result of `synchronise`. seen: number of the source's objects."""

    seen: int = 0
    written: int = 0
    bytes: int = 0
    removed: int = 0


async def count_large_objects(conn: AsyncConnection) -> int:
    with translated("looking for large objects"):
        row = await (await conn.execute("SELECT count(*) FROM pg_catalog.pg_largeobject_metadata")).fetchone()
    return int(row[0]) if row else 0


async def synchronise(
    source: AsyncConnection, destination: AsyncConnection, *, owners: bool, privileges: bool
) -> Outcome:
    """Synchronize the destination's large objects with the source's, as the session `source` sees them.

    owners, privileges: whether these are kept too. The destination must not be in a transaction.
    """
    outcome, after = Outcome(), 0
    while after < _LAST_OID:
        with translated("reading the source's large objects"):
            ours = await _list(source, after, _LAST_OID, WINDOW)
        last = ours[-1].oid if len(ours) == WINDOW else _LAST_OID
        outcome.seen += len(ours)
        with translated("copying large objects"):
            await _window(source, destination, ours, (after, last), outcome)
            async with destination.transaction():
                theirs = {one.oid: one for one in await _list(destination, after, last, None)}
                await _describe(destination, ours, theirs, owners=owners, privileges=privileges)
        after = last
    return outcome


async def count_differences(source: AsyncConnection, destination: AsyncConnection) -> Outcome:
    """What `synchronise` would do now. Changes nothing, and reads every object on both servers."""
    outcome, after = Outcome(), 0
    while after < _LAST_OID:
        with translated("comparing large objects"):
            ours = await _list(source, after, _LAST_OID, WINDOW)
            last = ours[-1].oid if len(ours) == WINDOW else _LAST_OID
            send, _, superfluous = await _differing(source, destination, ours, (after, last))
        outcome.seen += len(ours)
        outcome.written += len(send)
        outcome.removed += len(superfluous)
        after = last
    return outcome


async def _differing(
    source: AsyncConnection,
    destination: AsyncConnection,
    ours: Sequence[LargeObject],
    bounds: tuple[int, int],
) -> tuple[list[int], set[int], set[int]]:
    """Objects of the source that the destination lacks or has with other contents, those among them that it
    has, and those that it has beyond the source's."""
    there = {one.oid for one in await _list(destination, *bounds, None)}
    wanted = [one.oid for one in ours]
    both = [oid for oid in wanted if oid in there]
    here, other = await asyncio.gather(_digests(source, both), _digests(destination, both))
    send = [oid for oid in wanted if oid not in there or here[oid] != other[oid]]
    return send, there.intersection(send), there.difference(wanted)


async def _window(
    source: AsyncConnection,
    destination: AsyncConnection,
    ours: Sequence[LargeObject],
    bounds: tuple[int, int],
    outcome: Outcome,
) -> None:
    """Copy the contents of one window in one transaction."""
    async with destination.transaction():
        send, replaced, superfluous = await _differing(source, destination, ours, bounds)
        await destination.execute(
            "SELECT pg_catalog.lo_unlink(o::pg_catalog.oid) FROM unnest(%s::bigint[]) o",
            [sorted(replaced | superfluous)],
        )
        left = iter(send)
        while some := list(islice(left, PER_STATEMENT)):
            outcome.bytes += await _send(source, destination, some)
    outcome.written += len(send)
    outcome.removed += len(superfluous)


async def _list(conn: AsyncConnection, after: int, last: int, limit: int | None) -> list[LargeObject]:
    cursor = await conn.execute(_LISTED, [after, last, limit])
    return [_large_object(row) async for row in cursor]


def _large_object(row: tuple[Any, ...]) -> LargeObject:
    oid, owner, grants, comment = row
    return LargeObject(
        oid, owner, frozenset((who, what, grantable) for who, what, grantable in grants), comment
    )


async def _digests(conn: AsyncConnection, oids: Sequence[int]) -> dict[int, bytes]:
    if not oids:
        return {}
    cursor = await conn.execute(_DIGESTS, {"oids": list(oids), "chunk": CHUNK})
    return {oid: bytes(digest) async for oid, digest in cursor}


async def _send(source: AsyncConnection, destination: AsyncConnection, oids: Sequence[int]) -> int:
    """Create objects that do not exist on the destination. Returns their bytes."""
    offset, size = 0, 0
    left = list(oids)
    while left:
        cursor = source.cursor(binary=True)
        await cursor.execute(
            "SELECT o, pg_catalog.lo_get(o::pg_catalog.oid, %s::bigint, %s::int) FROM unnest(%s::bigint[]) o",
            [offset, CHUNK, left],
        )
        pieces: dict[int, bytes] = dict(await cursor.fetchall())
        await _write(destination, pieces, offset)
        size += sum(map(len, pieces.values()))
        left = [oid for oid, piece in pieces.items() if len(piece) == CHUNK]
        offset += CHUNK
    return size


async def _write(destination: AsyncConnection, pieces: Mapping[int, bytes], offset: int) -> None:
    values = [list(pieces.keys()), list(pieces.values())]
    if offset == 0:
        await destination.execute(
            "SELECT pg_catalog.lo_from_bytea(o::pg_catalog.oid, b)"
            " FROM unnest(%b::bigint[], %b::bytea[]) AS t (o, b)",
            values,
        )
        return
    await destination.execute(
        "SELECT pg_catalog.lo_put(o::pg_catalog.oid, %b::bigint, b)"
        " FROM unnest(%b::bigint[], %b::bytea[]) AS t (o, b)",
        [offset, *values],
    )


async def _describe(
    conn: AsyncConnection,
    wanted: Sequence[LargeObject],
    found: Mapping[int, LargeObject],
    *,
    owners: bool,
    privileges: bool,
) -> None:
    """Set owners, privileges and comments that differ on the destination."""
    statements = [
        statement
        for one in wanted
        if one.oid in found
        for statement in described(one, found[one.oid], owners=owners, privileges=privileges)
    ]
    if statements:
        await conn.execute(sql.SQL("; ").join(statements))


def described(
    wanted: LargeObject, found: LargeObject, *, owners: bool, privileges: bool
) -> list[sql.Composed]:
    """Statements that change `found` to `wanted`, except for the contents."""
    name = sql.SQL("LARGE OBJECT {}").format(sql.Literal(wanted.oid))
    statements = []
    owner = found.owner
    if owners and wanted.owner != found.owner:
        owner = wanted.owner
        statements.append(sql.SQL("ALTER {} OWNER TO {}").format(name, sql.Identifier(owner)))
    if privileges and wanted.grants != found.grants:
        held = sorted({grantee for grantee, _, _ in found.grants if grantee is not None})
        losing = [*map(_role, held), sql.Identifier(owner)]
        statements += [sql.SQL("REVOKE ALL ON {} FROM {}").format(name, role) for role in losing]
        for who, privilege, grantable in sorted(wanted.grants, key=_owner_first):
            statements.append(
                sql.SQL("GRANT {} ON {} TO {}{}").format(
                    sql.SQL("SELECT" if privilege == "SELECT" else "UPDATE"),
                    name,
                    sql.Identifier(owner) if who is None else _role(who),
                    sql.SQL(" WITH GRANT OPTION" if grantable and who is not None else ""),
                )
            )
    if wanted.comment != found.comment:
        statements.append(sql.SQL("COMMENT ON {} IS {}").format(name, sql.Literal(wanted.comment)))
    return statements


def _owner_first(grant: Grant) -> tuple[bool, str, str]:
    return grant[0] is not None, grant[0] or "", grant[1]


def _role(name: str) -> sql.Composable:
    return sql.Identifier(name) if name else sql.SQL("PUBLIC")
