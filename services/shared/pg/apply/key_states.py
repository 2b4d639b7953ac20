"""What this side has done with keys that the other side changes too.

The rows of the keys are locked first, and read after that by a second statement, whose snapshot therefore has
the last version of each. A row that was inserted in between is not locked, so both statements are run again
then.

Who has last written a row, and when, PostgreSQL knows by the transaction in its xmin, if
`track_commit_timestamp` is on: the replication origin is ours if it came from the other side. When a missing
row was deleted here, `pgmig.deleted_row` knows (services.shared.pg.bidirectional.deletions).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString, NamedTuple

from psycopg import AsyncConnection, sql

from services.shared.model import ErrorKind, PgmigError, PipelineId
from services.shared.model.conflicts.resolution import Local
from services.shared.pg.apply.session import ApplySession
from services.shared.pg.apply.target_statements import comma_separated, parameter
from services.shared.pg.apply.target_table import Key, Operation, Statement, TargetTable, array
from services.shared.pg.session.connection import translated

ORIGINS_SINCE = 140000
"""server_version_num from which a server tells a transaction's origin."""
_ATTEMPTS = 10
_CHANGED_AT: LiteralString = (
    '(SELECT (extract(epoch FROM c."timestamp") * 1000000)::pg_catalog.int8'
    " FROM pg_catalog.pg_xact_commit_timestamp_origin(t.xmin) AS c WHERE c.roident <> {}::pg_catalog.oid)"
)
_DELETED_AT: LiteralString = (
    "(extract(epoch FROM pg_catalog.pg_xact_commit_timestamp(d.xmin)) * 1000000)::pg_catalog.int8"
)


class Expected(NamedTuple):
    """What the first change of a key in a group expects. seen_us: as in Remote."""

    exists: bool
    seen_us: int


class Facts(NamedTuple):
    """Of the receiving side. origin: OID of the pipeline's replication origin. tells_times: whether it knows
    who has changed a row, and when."""

    origin: int
    tells_times: bool


async def receiving_facts(conn: AsyncConnection, pipeline: PipelineId) -> Facts:
    """Raises PERMISSION if the pipeline has no replication origin, because then its own changes could not be
    told from those of others."""
    with translated("preparing to look for conflicts"):
        row = await (
            await conn.execute(
                "SELECT (SELECT roident FROM pg_catalog.pg_replication_origin WHERE roname = %s),"
                " pg_catalog.current_setting('track_commit_timestamp')::bool",
                [pipeline.origin],
            )
        ).fetchone()
    if row is None or row[0] is None:
        raise PgmigError(
            ErrorKind.PERMISSION,
            f"the role of the {pipeline.subscriber} may not use replication origins, without which changes "
            "of the other side cannot be told from those of this one",
            "grant the role EXECUTE on the functions of replication origins, and start again",
        )
    return Facts(int(row[0]), bool(row[1]) and conn.info.server_version >= ORIGINS_SINCE)


class KeyStates:
    """Reads the states of keys within the transaction that is about to change them."""

    def __init__(self, session: ApplySession, pipeline: PipelineId, facts: Facts) -> None:
        self._session = session
        self._pipeline = pipeline
        self._facts = facts
        self._statements: dict[TargetTable, tuple[Statement, Statement]] = {}
        self._changed: dict[TargetTable, Statement] = {}

    async def unexpected(
        self, keys: Mapping[TargetTable, Mapping[Key, Expected]]
    ) -> dict[tuple[TargetTable, Key], Local]:
        """Lock the rows of all keys, and return those that are not as expected: a row exists or not, contrary
        to the expectation, or was changed here later than the other side has seen."""
        operations: list[Operation] = []
        for target, expected in keys.items():
            operations += self._operations(target, expected)
        for _ in range(_ATTEMPTS):
            results = await self._session.query(operations)
            found: dict[tuple[TargetTable, Key], Local] = {}
            stable = True
            for (target, expected), locked, read in zip(
                keys.items(), results[::2], results[1::2], strict=True
            ):
                names, held = list(expected), {row[0] for row in locked}
                for number, exists, changed_at in read:
                    key = names[int(number or b"0") - 1]
                    found[target, key] = Local(exists == b"t", int(changed_at) if changed_at else None)
                    stable = stable and (exists != b"t" or number in held)
            if stable:
                return found
        raise PgmigError(
            ErrorKind.TRANSIENT,
            "rows that the other side has changed are inserted and deleted again and again",
            "look for an application that does so",
        )

    async def changed_here(self, target: TargetTable, seen_us: int) -> bool:
        """Whether the table has rows that this side has changed later than the other side has seen. The
        table is locked against changes."""
        if not self._facts.tells_times:
            return False
        lock = Statement(
            sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(target.rows_of).as_bytes(None)
        )
        statement = self._changed.get(target)
        if statement is None:
            text = sql.SQL("SELECT FROM {} AS t WHERE {} > $1::pg_catalog.int8 LIMIT 1").format(
                target.rows_of, self._changed_at()
            )
            statement = self._changed[target] = Statement(text.as_bytes(None))
        seen = Operation(statement, (b"%d" % seen_us,))
        return bool((await self._session.query([Operation(lock, ()), seen]))[1])

    def _operations(self, target: TargetTable, expected: Mapping[Key, Expected]) -> list[Operation]:
        lock, read = self._statements.get(target) or self._build(target)
        keys = list(expected)
        columns: list[Any] = [keys] if len(target.where) == 1 else list(zip(*keys, strict=True))
        arrays = tuple(array(column) for column in columns)
        exist = array([b"t" if one.exists else b"f" for one in expected.values()])
        seen = array([b"%d" % one.seen_us for one in expected.values()])
        return [Operation(lock, arrays), Operation(read, (*arrays, exist, seen))]

    def _build(self, target: TargetTable) -> tuple[Statement, Statement]:
        count = len(target.where)
        arrays = target.key_arrays()
        names = [sql.SQL(f"v{n}") for n in range(count)]
        lock = sql.SQL(
            "SELECT s.n FROM unnest({}) WITH ORDINALITY AS s ({}, n) JOIN {} AS t ON {}"
            " FOR NO KEY UPDATE OF t"
        ).format(arrays, comma_separated(names), target.rows_of, target.key_join())
        read = sql.SQL(
            "SELECT found.n, found.present, found.changed_at FROM ("
            "SELECT s.n, s.expected, s.seen, t.xmin IS NOT NULL AS present,"
            " CASE WHEN t.xmin IS NOT NULL THEN {row_at} ELSE {deleted_at} END AS changed_at"
            " FROM unnest({arrays}, {expected}::pg_catalog.bool[], {seen}::pg_catalog.int8[])"
            " WITH ORDINALITY AS s ({names}, expected, seen, n)"
            " LEFT JOIN {rows} AS t ON {join}"
            " LEFT JOIN pgmig.deleted_row AS d ON d.pipeline = {pipeline}"
            " AND d.relation = {relation}::pg_catalog.regclass AND d.key = {key}) AS found"
            " WHERE found.present <> found.expected OR found.changed_at > found.seen"
        ).format(
            row_at=self._changed_at(),
            deleted_at=self._deleted_at(),
            arrays=arrays,
            expected=parameter(count),
            seen=parameter(count + 1),
            names=comma_separated(names),
            rows=target.rows_of,
            join=target.key_join(),
            pipeline=sql.Literal(str(self._pipeline)),
            relation=sql.Literal(target.quoted_name),
            key=target.key_text(),
        )
        built = Statement(lock.as_bytes(None)), Statement(read.as_bytes(None))
        self._statements[target] = built
        return built

    def _changed_at(self) -> sql.Composable:
        """When this side has last changed row `t`; NULL if the other side has, or if it is unknown."""
        if not self._facts.tells_times:
            return sql.SQL("NULL::pg_catalog.int8")
        return sql.SQL(_CHANGED_AT).format(sql.Literal(self._facts.origin))

    def _deleted_at(self) -> sql.Composable:
        if not self._facts.tells_times:
            return sql.SQL("NULL::pg_catalog.int8")
        return sql.SQL(_DELETED_AT)


def of_key(target: TargetTable, values: Sequence[object]) -> Key:
    """The key of a row, in the form of `Pending`."""
    where = target.where
    if len(where) == 1:
        return values[where[0]]  # type: ignore[return-value]
    return tuple([values[i] for i in where])  # type: ignore[misc]
