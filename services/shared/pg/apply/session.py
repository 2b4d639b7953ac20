"""The applier's session on the destination: pipelined statements, applied exactly once.

Rule 3: every destination transaction records its own progress (the source's end LSN), through replication
origin progress or, if the role may not use origins, in a row of `pgmig.progress`. A restarted session reads
the progress and skips the transactions before it.

Commits do not wait for the disk (`synchronous_commit=off`). `flushed` is the source position that is safe; it
advances with the destination's WAL flush position, or with that of its standbys (`await_standbys`). A
transaction that was requested to be durable waits for the disk.

A pipeline segment ends with one Sync: after an error the server skips the rest of the segment, so nothing is
applied after a failure. A commit is sent together with the statements after it, or by `send_commit` if there
are none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import partial

import psycopg
from psycopg import AsyncConnection, generators, pq
from psycopg.abc import PipelineCommand, PQGen
from psycopg.waiting import Ready, Wait

from services.shared.model import ErrorKind, Lsn, PgmigError, PipelineId
from services.shared.model.milestone import Milestone
from services.shared.pg.apply import long_values
from services.shared.pg.apply.fence import take_applier_lock
from services.shared.pg.apply.progress import in_use, take_origin, take_row, uses_origin
from services.shared.pg.apply.refusal import CommitFailedError, RefusedError, missing_row, where_refused
from services.shared.pg.apply.target_table import Operation, Statement
from services.shared.pg.bookkeeping.milestone import check_milestone
from services.shared.pg.session.connection import connect, translate, translated
from services.shared.pg.session.encoding import RAW, codec_of, send_as_stored, set_encoding, stored_encoding

MAX_PREPARED = 5000
FLUSH_LOOK_S = 0.01
_DUPLICATE_KEY = "23505"

# Find every row by its key, whatever the statistics of a recently loaded table are. With the
# server_version_num from which the setting exists.
_PLAN_FOR_KEYS = (
    ("SET enable_seqscan = off", 0),
    ("SET enable_hashjoin = off", 0),
    ("SET enable_mergejoin = off", 0),
    ("SET jit = off", 110000),
    ("SET plan_cache_mode = force_generic_plan", 120000),
)

_BEGIN = Statement(b"BEGIN")
_COMMIT = Statement(b"COMMIT")
_ROLLBACK = Statement(b"ROLLBACK")
_DURABLE = Statement(b"SET LOCAL synchronous_commit = local")
# A commit waits for the disk only if its transaction wrote WAL; an assigned xid is not enough.
_WRITE_WAL = Statement(b"SELECT pg_catalog.pg_logical_emit_message(true, 'pgmig', 'durable')")
_ASSIGN_XID = Statement(b"SELECT pg_catalog.txid_current()")
_WAL = Statement(b"SELECT pg_catalog.pg_current_wal_insert_lsn(), pg_catalog.pg_current_wal_flush_lsn()")
_ORIGIN = Statement(
    b"SELECT pg_catalog.pg_replication_origin_xact_setup($1::pg_catalog.pg_lsn,"
    b" pg_catalog.to_timestamp($2::float8 / 1000000))"
)
_PROGRESS_ROW = Statement(
    b"INSERT INTO pgmig.progress AS p (pipeline, lsn) VALUES ($1, $2::pg_catalog.pg_lsn)"
    b" ON CONFLICT (pipeline) DO UPDATE SET lsn = EXCLUDED.lsn"
)
_MAKE_PIECES = (Statement(long_values.MAKE_TABLE), Statement(long_values.UNCOMPRESSED))
_EMPTY_PIECES = Statement(long_values.EMPTY_TABLE)
_ADD_TEXT, _ADD_BYTEA = Statement(long_values.ADD_TEXT), Statement(long_values.ADD_BYTEA)
_STATEMENTS_IN_UTF8 = set_encoding("UTF8").encode()


class ApplySession:
    """A session of one pipeline on the destination. Only one can exist, because only one session can use the
    origin."""

    def __init__(self, conn: AsyncConnection, pipeline: PipelineId, *, uses_origin: bool) -> None:
        self._conn = conn
        self._pgconn = conn.pgconn
        self._pipeline = pipeline
        self._uses_origin = uses_origin
        self._encoding = stored_encoding(conn)
        self._prepared: dict[Statement, bytes] = {}
        self._names = 0
        self._held: list[Operation] = []  # a commit that will be sent with later statements
        self._unflushed: deque[tuple[int, Lsn]] = deque()
        self._in_transaction = False
        self._wrote = False
        self._fragments_made = False  # whether the temporary table for long values exists
        self._standbys: Lsn | None = None  # they have the WAL before it; None: nobody waits for them
        self._pgconn.enter_pipeline_mode()
        self.progress = Lsn(0)  # including the commit that is held
        self.applied = Lsn(0)
        self.flushed = Lsn(0)

    @classmethod
    async def open(
        cls,
        uri: str,
        pipeline: PipelineId,
        start: Lsn,
        epoch: str = "",
        milestone: Milestone | None = None,
    ) -> ApplySession:
        """Connect, set up the origin, read the progress (`start` if there is none yet). epoch, milestone: as
        assigned by the coordinator. Raises FENCED if another epoch is in force, GAP if the server lacks what
        was done before."""
        conn = await connect(uri, "destination")
        try:
            with translated("preparing the apply session on the destination"):
                await conn.execute("SET session_replication_role = replica")
                await conn.execute("SET default_transaction_read_only = off")  # the database may be guarded
                await conn.execute("SET synchronous_commit = local")
                await check_milestone(conn, pipeline, milestone)  # else the epoch is missing, too
                if not await take_applier_lock(conn, pipeline, epoch):
                    raise in_use(f"the progress of migration {pipeline.migration}")
                by_origin = await uses_origin(conn, pipeline)
                if by_origin:
                    progress = await take_origin(conn, pipeline)
                else:
                    progress = await take_row(conn, pipeline, start)
                await conn.execute("SET synchronous_commit = off")
                for setting, since in _PLAN_FOR_KEYS:
                    if conn.info.server_version >= since:
                        await conn.execute(setting)
            await send_as_stored(conn)
            session = cls(conn, pipeline, uses_origin=by_origin)
        except BaseException:
            await conn.close()
            raise
        session.progress = session.applied = session.flushed = progress or start
        return session

    async def close(self) -> None:
        await self._conn.close()

    async def await_standbys(self, start: Lsn) -> None:
        """From now on, only what the standbys have counts as flushed (`standbys_have`). Call it before the
        first change. start: as for `open`. What earlier sessions have applied may not be there yet."""
        self._standbys = Lsn(0)
        if self.progress > start:
            self.flushed = start
            await self._run([Operation(_WAL, ())])

    def standbys_have(self, position: Lsn) -> None:
        """position: of the destination's WAL."""
        self._standbys = position

    async def execute(self, operations: Sequence[Operation], *, durable: bool = False) -> None:
        """Run row changes in the open transaction. If none is open, begin one.

        Raises CommitFailedError if the held commit failed, otherwise PgmigError, for example MISSING_ROW if
        an UPDATE or DELETE did not find its rows (rule 11). Then call `rollback` to abort the open
        transaction, unless a new session can solve the error.
        """
        head, held = self._begun()
        if durable:
            head += [Operation(_DURABLE, ()), Operation(_WRITE_WAL, ())]
        self._wrote = self._wrote or durable or bool(operations)
        counts = await self._run_with_long_values([*head, *operations], held)
        for operation, count in zip(operations, counts[len(head) :], strict=True):
            if operation.rows is not None and count != operation.rows:
                raise missing_row(operation, count)

    async def query(self, operations: Sequence[Operation]) -> list[list[tuple[bytes | None, ...]]]:
        """The rows that each operation returns, in the open transaction. If none is open, begin one. Raises
        as `execute`."""
        head, held = self._begun()
        results: list[pq.abc.PGresult] = []
        await self._run([*head, *operations], held, results)
        return [
            [tuple(result.get_value(row, i) for i in range(result.nfields)) for row in range(result.ntuples)]
            for result in results[len(head) :]
        ]

    def _begun(self) -> tuple[list[Operation], int]:
        """What must be sent before the next operations of the transaction: a commit that is held, of so many
        operations, and BEGIN."""
        held = len(self._held)
        head = self._take_held()
        if not self._in_transaction:
            head.append(Operation(_BEGIN, ()))
            self._in_transaction = True
            self._wrote = False
        return head, held

    async def _run_with_long_values(self, operations: list[Operation], held: int) -> list[int]:
        """Same as `_run`, but long values are sent before their operation, after the earlier operations have
        run."""
        counts: list[int] = []
        for at, operation in enumerate(operations):
            if operation.long:
                counts += await self._run(operations[len(counts) : at], held)
                held = 0
                await self._send_fragments(operation.long)
        return counts + await self._run(operations[len(counts) :], held)

    async def _send_fragments(self, values: Sequence[long_values.LongValue]) -> None:
        if not self._fragments_made:
            await self._run([Operation(statement, ()) for statement in _MAKE_PIECES])
            self._fragments_made = True
        await self._run([Operation(_EMPTY_PIECES, ())])
        for value in values:
            for number, fragment in enumerate(long_values.fragments(value)):
                given = (b"%d" % value.parameter, b"%d" % number, fragment)
                await self._run([Operation(_ADD_BYTEA if value.in_bytes else _ADD_TEXT, given)])

    def commit(self, end: Lsn, commit_time_us: int) -> None:
        """End the open transaction with progress `end`. The next `execute` or `send_commit` sends it."""
        assert self._in_transaction
        if self._uses_origin:
            if not self._wrote:  # a commit without an xid would not record the origin
                self._held.append(Operation(_ASSIGN_XID, ()))
            self._held.append(Operation(_ORIGIN, (str(end).encode(), b"%d" % commit_time_us)))
        else:
            self._held.append(Operation(_PROGRESS_ROW, (str(self._pipeline).encode(), str(end).encode())))
        self._held += [Operation(_COMMIT, ()), Operation(_WAL, ())]
        self._in_transaction = False
        self.progress = end

    async def send_commit(self) -> None:
        """Send a held commit and wait for it."""
        if self._held:
            held = self._take_held()
            await self._run(held, len(held))

    async def poll_flush(self) -> Lsn:
        """Read the destination's flush position and return `flushed`. Does nothing in a transaction."""
        if self._unflushed and not self._in_transaction:
            await self.send_commit()
            await self._run([Operation(_WAL, ())])
        return self.flushed

    async def await_flush(self) -> None:
        """Return when everything that was committed is on the destination's disk. A durable commit already
        is, but WAL of other sessions may delay the observation."""
        while not self.all_flushed:
            await self.poll_flush()
            if not self.all_flushed:
                await asyncio.sleep(FLUSH_LOOK_S)

    @property
    def all_flushed(self) -> bool:
        return not self._unflushed and not self._held

    async def rollback(self) -> None:
        """Abort the open transaction."""
        self._held.clear()
        if self._in_transaction:
            self._in_transaction = self._fragments_made = False
            await self._run([Operation(_ROLLBACK, ())])

    def _take_held(self) -> list[Operation]:
        held, self._held = self._held, []
        return held

    async def _run(
        self,
        operations: Sequence[Operation],
        held: int = 0,
        keep: list[pq.abc.PGresult] | None = None,
    ) -> list[int]:
        """Run one pipeline segment. Returns the rows affected by each operation. The first `held` operations
        are a commit. keep: takes the result of each operation."""
        commands: deque[PipelineCommand] = deque()
        owners: list[Operation | Statement | None] = []  # a Statement: its preparation
        if len(self._prepared) >= MAX_PREPARED:
            self._prepared.clear()
            commands.append(self._simple(b"DEALLOCATE ALL"))
            owners.append(None)
        for operation in operations:
            name = self._prepared.get(operation.statement)
            if name is None:
                name = self._prepare(operation.statement, commands, owners)
            commands.append(partial(self._pgconn.send_query_prepared, name, operation.values))
            owners.append(operation)
        commands.append(self._pgconn.pipeline_sync)
        try:
            results = await self._conn.wait(self._exchange(commands))
        except psycopg.Error as exc:
            raise translate(exc, "applying changes to the destination") from exc
        counts: list[int] = []
        for owner, result in zip(owners, results, strict=True):
            if result.status not in {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK}:
                self._forget_skipped(owners, results)
                failure = self._failure(owner, result)
                raise CommitFailedError(failure) if len(counts) < held else failure
            if not isinstance(owner, Operation):
                continue
            counts.append(result.command_tuples or 0)
            if keep is not None:
                keep.append(result)
            if owner.statement is _WAL:
                self._note_wal(result)
        return counts

    def _prepare(
        self,
        statement: Statement,
        commands: deque[PipelineCommand],
        owners: list[Operation | Statement | None],
    ) -> bytes:
        """Add the statement's preparation to the pipeline. Its text is UTF-8, whatever encoding values travel
        in. A rollback also undoes changes of the client encoding."""
        self._names += 1
        name = self._prepared[statement] = b"pgmig_%d" % self._names
        prepare = partial(self._pgconn.send_prepare, name, statement.text)
        if statement.text.isascii() or self._encoding in {"", RAW}:
            commands.append(prepare)
            owners.append(statement)
        else:
            back = set_encoding(self._encoding).encode()
            commands += [self._simple(_STATEMENTS_IN_UTF8), prepare, self._simple(back)]
            owners += [None, statement, None]
        return name

    def _simple(self, text: bytes) -> PipelineCommand:
        return partial(self._pgconn.send_query_params, text, None)

    def _exchange(self, commands: deque[PipelineCommand]) -> PQGen[list[pq.abc.PGresult]]:
        """Send all commands and receive all results, up to the Sync."""
        groups = yield from generators.pipeline_communicate(self._pgconn, commands)
        while self._pgconn.flush():  # sends what the socket did not accept at once
            if (yield Wait.RW) & Ready.R:
                self._pgconn.consume_input()
        while not groups or groups[-1][0].status != pq.ExecStatus.PIPELINE_SYNC:
            groups.append((yield from generators.fetch_many(self._pgconn)))
        return [group[0] for group in groups[:-1]]

    def _forget_skipped(
        self, owners: list[Operation | Statement | None], results: list[pq.abc.PGresult]
    ) -> None:
        """Forget statements whose preparation was skipped after an error."""
        for owner, result in zip(owners, results, strict=True):
            if isinstance(owner, Statement) and result.status != pq.ExecStatus.COMMAND_OK:
                self._prepared.pop(owner, None)

    def _failure(self, owner: Operation | Statement | None, result: pq.abc.PGresult) -> PgmigError:
        error = psycopg.errors.error_from_result(result, encoding=codec_of(self._encoding))
        translated_error = translate(error, "applying changes to the destination")
        if translated_error.kind is not ErrorKind.INTERNAL:
            return translated_error
        where = where_refused(error.diag, owner if isinstance(owner, Operation) else None)
        refused = PgmigError(
            ErrorKind.APPLY_FAILED,
            f"the destination refuses a change{where}: {error.diag.message_primary} "
            f"(SQLSTATE {error.sqlstate})",
            "remove the cause on the destination, then continue",
        )
        found = RefusedError.of(refused, owner.table if isinstance(owner, Operation) else None)
        if error.sqlstate == _DUPLICATE_KEY and isinstance(owner, Operation):
            found.may_pass, found.duplicate = True, owner
        return found

    def _note_wal(self, result: pq.abc.PGresult) -> None:
        """Everything committed before the insert position is safe once the flush position has reached it."""
        inserted, flushed = (Lsn.parse((result.get_value(0, i) or b"").decode()).value for i in (0, 1))
        self.applied = self.progress
        if not self._unflushed or self._unflushed[-1][1] != self.progress:
            self._unflushed.append((inserted, self.progress))
        if self._standbys is not None:
            flushed = min(flushed, self._standbys.value)
        while self._unflushed and self._unflushed[0][0] <= flushed:
            self.flushed = self._unflushed.popleft()[1]
