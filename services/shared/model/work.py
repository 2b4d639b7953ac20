"""What the coordinator asks of workers (assignments) and what they report back.

One assignment is one job of one worker for one migration. Its id is unique for ever; a
report names the assignment that it belongs to, so late reports of an old one are ignored.
URIs hold credentials: they are kept out of `repr`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from services.shared.model.errors import ErrorKind
from services.shared.model.lsn import Lsn
from services.shared.model.tables import Route, TableId


class Role(StrEnum):
    DECODER = "decoder"
    COPIER = "copier"
    APPLIER = "applier"


@dataclass(frozen=True, slots=True)
class DecoderWork:
    """follow=False: hold a snapshot only, no slot. may_create=False: a missing slot is a gap.

    tables: what the publication carries (partitioned roots, not their leaves, from 13 on).
    inserts_only: what a second publication carries, for INSERT and TRUNCATE.
    sends_generated: the first publication holds stored generated columns.
    system_identifier, timeline: as recorded when the slot was made; "" and 0 before.
    start_lsn: the slot's consistent point, 0/0 before. flushed_lsn: the destination's last
    known progress, 0/0 when none.
    """

    source_uri: str = field(repr=False)
    follow: bool
    may_create: bool
    tables: tuple[TableId, ...]
    system_identifier: str = ""
    timeline: int = 0
    start_lsn: Lsn = Lsn(0)
    flushed_lsn: Lsn = Lsn(0)
    inserts_only: tuple[TableId, ...] = ()
    sends_generated: bool = False


@dataclass(frozen=True, slots=True)
class CopierWork:
    """workers: parts copied at the same time by this copier process. max_rate: bytes of COPY data
    a second, all its workers together; 0: as fast as it goes."""

    source_uri: str = field(repr=False)
    destination_uri: str = field(repr=False)
    workers: int = 2
    max_rate: int = 0


@dataclass(frozen=True, slots=True)
class ApplierWork:
    """start_lsn: progress before anything was applied (the slot's consistent point).

    floors: tables copied under a later snapshot; changes of transactions whose commit record
    lies before the floor are in the copy already. skip: commit LSNs of transactions that are
    applied as empty ones, because an operator said so. strict: each source transaction is one on
    the destination, however far behind. routes: partitions that the destination lacks.
    sends_generated: the source sends stored generated columns. epoch: see
    services.shared.pg.apply.fence.
    """

    destination_uri: str = field(repr=False)
    start_lsn: Lsn
    floors: tuple[tuple[TableId, Lsn], ...] = ()
    skip: tuple[Lsn, ...] = ()
    strict: bool = False
    routes: tuple[Route, ...] = ()
    sends_generated: bool = False
    epoch: str = ""


Work = DecoderWork | CopierWork | ApplierWork


@dataclass(frozen=True, slots=True)
class AssignmentRef:
    """Which assignment, without its work: it holds no credentials."""

    assignment_id: str
    migration_id: str
    role: Role


@dataclass(frozen=True, slots=True)
class Assignment:
    assignment_id: str
    migration_id: str
    work: Work

    @property
    def ref(self) -> AssignmentRef:
        return AssignmentRef(self.assignment_id, self.migration_id, self.role)

    @property
    def role(self) -> Role:
        match self.work:
            case DecoderWork():
                return Role.DECODER
            case CopierWork():
                return Role.COPIER
            case ApplierWork():
                return Role.APPLIER


# Commands, coordinator to worker.


@dataclass(frozen=True, slots=True)
class Assign:
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class Unassign:
    assignment_id: str


@dataclass(frozen=True, slots=True)
class OpenSnapshot:
    """The decoder answers with SnapshotReady: a snapshot held open by a keeper transaction."""

    assignment_id: str


@dataclass(frozen=True, slots=True)
class CloseSnapshot:
    assignment_id: str


WorkerCommand = Assign | Unassign | OpenSnapshot | CloseSnapshot

# Reports, worker to coordinator.


@dataclass(frozen=True, slots=True)
class Register:
    """First report of a stream. running: assignments of its role that outlived a broken stream."""

    worker_id: str
    role: Role
    host: str
    running: tuple[AssignmentRef, ...] = ()


@dataclass(frozen=True, slots=True)
class SlotReady:
    """The slot exists. consistent_lsn: where it began (as created, or as recorded)."""

    assignment_id: str
    consistent_lsn: Lsn
    system_identifier: str
    timeline: int


@dataclass(frozen=True, slots=True)
class SnapshotReady:
    """lsn: transactions whose commit record lies before it are visible, later ones are streamed.
    xids: its txid_current_snapshot()."""

    assignment_id: str
    snapshot_name: str
    lsn: Lsn
    xids: str = ""

    @property
    def identity(self) -> str:
        """What tells it from any other: a restarted server gives the same names again."""
        return f"{self.snapshot_name} {self.xids}"


@dataclass(frozen=True, slots=True)
class DecoderProgress:
    """source_lsn: the source's WAL end as last heard. decoded_lsn: end of the last transaction
    stored in the change stream, or the heartbeat position when idle. confirmed_lsn: the flush
    position last reported to the slot. waiting_for_space: the change stream is full."""

    assignment_id: str
    source_lsn: Lsn
    decoded_lsn: Lsn
    confirmed_lsn: Lsn
    waiting_for_space: bool = False


@dataclass(frozen=True, slots=True)
class PartProgress:
    """bytes is of COPY data."""

    assignment_id: str
    part_id: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class PartDone:
    assignment_id: str
    part_id: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ApplierProgress:
    """Totals are since the assignment began. last_commit_at: source commit time (Unix seconds)
    of the last applied transaction, 0.0 when none yet."""

    assignment_id: str
    applied_lsn: Lsn
    flushed_lsn: Lsn
    last_commit_at: float
    rows_applied: int
    transactions_applied: int
    bytes_applied: int


@dataclass(frozen=True, slots=True)
class SentinelApplied:
    """The sentinel's transaction, and so all before it, is on the destination's disk.
    lsn: its end LSN. since: the token of the sentinel before it, "" when this applier has seen none;
    changes: the tables that were changed between the two, and the number of rows."""

    assignment_id: str
    token: str
    lsn: Lsn
    since: str = ""
    changes: tuple[tuple[TableId, int], ...] = ()


@dataclass(frozen=True, slots=True)
class AssignmentFailed:
    """The assignment has ended (or, with part_id, one part of a copier's)."""

    assignment_id: str
    kind: ErrorKind
    message: str
    hint: str = ""
    lsn: Lsn = Lsn(0)
    part_id: str = ""
    xid: int = 0


@dataclass(frozen=True, slots=True)
class AssignmentRetrying:
    """The assignment, or what of it runs just now, has failed and will be tried again by the worker
    itself."""

    assignment_id: str
    kind: ErrorKind
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class AssignmentStopped:
    """Unassign has been carried out; nothing of the assignment runs any more."""

    assignment_id: str


WorkerReport = (
    Register
    | SlotReady
    | SnapshotReady
    | DecoderProgress
    | PartProgress
    | PartDone
    | ApplierProgress
    | SentinelApplied
    | AssignmentFailed
    | AssignmentRetrying
    | AssignmentStopped
)
