"""What the coordinator asks of workers (assignments), and what they report.

One assignment is one job of one worker for one pipeline. Its id is never used again. A report names its
assignment, so that late reports of an old assignment are ignored. URIs contain credentials, so they are
excluded from `repr`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from services.shared.model.conflicts.policy import OnConflict
from services.shared.model.errors import ErrorKind
from services.shared.model.lsn import Lsn
from services.shared.model.milestone import Milestone
from services.shared.model.names import PipelineId
from services.shared.model.tables.table import Route, TableId


class Role(StrEnum):
    DECODER = "decoder"
    COPIER = "copier"
    APPLIER = "applier"


@dataclass(frozen=True, slots=True)
class DecoderWork:
    """follow=False: hold only a snapshot, no slot. may_create=False: a missing slot is a gap.

    tables: the tables of the publication (from 13 on partitioned roots, not their leaves).
    inserts_only: the tables of a second publication, for INSERT and TRUNCATE.
    sends_generated: the first publication includes stored generated columns.
    system_identifier, timeline: as recorded when the slot was created; "" and 0 before that.
    start_lsn: the slot's consistent point, 0/0 before; for a pipeline without a copy, the position at which
    it starts. flushed_lsn: the destination's last known progress, 0/0 if none. local_only: transactions that
    have a replication origin are not sent. sends_seen: the stream says what the source has applied of the
    opposite pipeline (services.decoder.marks).
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
    local_only: bool = False
    sends_seen: bool = False


@dataclass(frozen=True, slots=True)
class CopierWork:
    """workers: parts copied at the same time by this copier process. max_rate: bytes of COPY data
    per second, for all its workers together; 0: no limit."""

    source_uri: str = field(repr=False)
    destination_uri: str = field(repr=False)
    workers: int = 2
    max_rate: int = 0


@dataclass(frozen=True, slots=True)
class ApplierWork:
    """start_lsn: progress before anything was applied (as in DecoderWork). timeline: of the source, whose
    changes are applied.

    floors: tables copied under a later snapshot. The copy already contains changes of transactions whose
    commit record is before the floor. skip: commit LSNs of transactions that an operator skipped; they
    are applied as empty transactions. strict: each source transaction is one transaction on the
    destination, even if the lag is large. routes: partitions that the destination does not have.
    sends_generated: the source sends stored generated columns. epoch: see
    services.shared.pg.apply.fence. on_conflict: both sides are written to, and this decides conflicts; None:
    the destination has no other writers, and nothing is compared. seen_us: only with on_conflict: the source
    has everything that the destination had committed until then (microseconds since the Unix epoch).
    milestone: what the destination must have. after_standby: changes count as flushed only when the
    destination's standbys have them, too.
    """

    destination_uri: str = field(repr=False)
    start_lsn: Lsn
    timeline: int = 0
    floors: tuple[tuple[TableId, Lsn], ...] = ()
    skip: tuple[Lsn, ...] = ()
    strict: bool = False
    routes: tuple[Route, ...] = ()
    sends_generated: bool = False
    epoch: str = ""
    on_conflict: OnConflict | None = None
    seen_us: int = 0
    milestone: Milestone | None = None
    after_standby: bool = False


Work = DecoderWork | CopierWork | ApplierWork


@dataclass(frozen=True, slots=True)
class AssignmentRef:
    """Identifies an assignment without its work, and so without credentials."""

    assignment_id: str
    pipeline: PipelineId
    role: Role


@dataclass(frozen=True, slots=True)
class Assignment:
    assignment_id: str
    pipeline: PipelineId
    work: Work

    @property
    def ref(self) -> AssignmentRef:
        return AssignmentRef(self.assignment_id, self.pipeline, self.role)

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
    """The decoder answers with SnapshotReady. A keeper transaction holds the snapshot open."""

    assignment_id: str


@dataclass(frozen=True, slots=True)
class CloseSnapshot:
    assignment_id: str


WorkerCommand = Assign | Unassign | OpenSnapshot | CloseSnapshot

# Reports, worker to coordinator.


@dataclass(frozen=True, slots=True)
class Register:
    """First report of a stream. running: assignments of its role that survived a broken stream."""

    worker_id: str
    role: Role
    host: str
    running: tuple[AssignmentRef, ...] = ()


@dataclass(frozen=True, slots=True)
class SlotReady:
    """The slot exists. consistent_lsn: where its changes begin (as created, or as recorded)."""

    assignment_id: str
    consistent_lsn: Lsn
    system_identifier: str
    timeline: int


@dataclass(frozen=True, slots=True)
class SnapshotReady:
    """lsn: transactions whose commit record is before it are visible, later ones are streamed.
    xids: its txid_current_snapshot()."""

    assignment_id: str
    snapshot_name: str
    lsn: Lsn
    xids: str = ""

    @property
    def identity(self) -> str:
        """Different for every snapshot, although a restarted server uses the same names again."""
        return f"{self.snapshot_name} {self.xids}"


@dataclass(frozen=True, slots=True)
class DecoderProgress:
    """source_lsn: the last known end of the source's WAL. decoded_lsn: end of the last transaction
    stored in the change stream, or the heartbeat position when idle. confirmed_lsn: the flush
    position last reported to the slot. waiting_for_space: the change stream is full."""

    assignment_id: str
    source_lsn: Lsn
    decoded_lsn: Lsn
    confirmed_lsn: Lsn
    waiting_for_space: bool = False


@dataclass(frozen=True, slots=True)
class PartProgress:
    """bytes: of COPY data."""

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
    of the last applied transaction; 0.0 if there is none yet. conflicts: that were resolved."""

    assignment_id: str
    applied_lsn: Lsn
    flushed_lsn: Lsn
    last_commit_at: float
    rows_applied: int
    transactions_applied: int
    bytes_applied: int
    conflicts: int = 0


@dataclass(frozen=True, slots=True)
class SentinelApplied:
    """The sentinel's transaction, and therefore every earlier one, is flushed on the destination.
    lsn: its end LSN. since: the token of the sentinel before it, "" if this applier has seen none.
    changes: the tables that were changed between the two, and the number of rows."""

    assignment_id: str
    token: str
    lsn: Lsn
    since: str = ""
    changes: tuple[tuple[TableId, int], ...] = ()


@dataclass(frozen=True, slots=True)
class AssignmentFailed:
    """The assignment has ended; with part_id, only one part of a copier's assignment."""

    assignment_id: str
    kind: ErrorKind
    message: str
    hint: str = ""
    lsn: Lsn = Lsn(0)
    part_id: str = ""
    xid: int = 0


@dataclass(frozen=True, slots=True)
class AssignmentRetrying:
    """The assignment or its current operation has failed. The worker retries it without the
    coordinator."""

    assignment_id: str
    kind: ErrorKind
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class AssignmentStopped:
    """Unassign has been executed; nothing of the assignment runs any more."""

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
