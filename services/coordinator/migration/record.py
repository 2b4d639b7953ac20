"""The record of a migration: what another process needs to continue it. It never contains credentials.

Everything else (copied parts, completed schema steps, the applied position) is read from the destination.
There it was written in the same transaction as the work that it describes.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field, replace

from services.shared.model import (
    DatabaseIdentity,
    Direction,
    Endpoint,
    ErrorKind,
    Event,
    Failure,
    IdentityBefore,
    Lsn,
    MigrationId,
    MigrationOptions,
    MigrationPhase,
    Operation,
    PgmigError,
    Phase,
    PipelineId,
    PipelineState,
    SkippedTransaction,
    SwitchoverResult,
    TableFile,
    TableId,
    shown_phase,
)
from services.shared.model.milestone import Milestone
from services.shared.model.view.certificate import StoredCertificate
from services.shared.model.view.jsonview import from_json, to_json
from services.shared.pg.freeze.thaw import Before
from services.shared.pg.guard.read_only import Guard
from services.shared.pg.reverse.ends import EndSessions

FORMAT = 3


@dataclass(frozen=True, slots=True)
class SlotRecord:
    """The state of the source when the slot was created; see SlotReady."""

    consistent_lsn: Lsn
    system_identifier: str
    timeline: int


@dataclass(frozen=True, slots=True)
class TableRecord:
    """floor: the table was copied under a snapshot later than the slot's; 0/0: it was not."""

    table: TableId
    rows_estimated: int = 0
    bytes_estimated: int = 0
    copied: bool = False
    rows: int = 0
    bytes: int = 0
    floor: Lsn = Lsn(0)


@dataclass(frozen=True, slots=True)
class DroppedTable:
    """A table that has no `TableRecord`. Both sides dropped it, or it is a partition whose rows were written
    or removed by a copy of its root. floor: changes that commit before it are skipped."""

    table: TableId
    floor: Lsn


@dataclass(frozen=True, slots=True)
class PipelineRecord:
    """What one pipeline must remember. resume_state: that resume returns to, while it is paused or failed.

    published: what the publication carries. inserts_only: what the second one carries, for INSERT
    and TRUNCATE. copied_only: what no publication carries. altered: tables that have, or may have,
    got REPLICA IDENTITY FULL from us on the source. sends_generated: the first publication holds
    stored generated columns. files: of the published tables before the slot was
    made, where the source does not replicate TRUNCATE. dropped: tables that are in no other
    list. damaged: tables that are copied again before indexes are built. applier_epoch: of the
    applier that may write. snapshot_id: under which the parts in the copy queue were published.
    flushed_lsn: the destination's progress as last heard. guard: written before others are
    kept from writing to the destination: how to let them in again.
    watched: the destination has, or may have, triggers that record writes of others.
    turn: how often the pipeline was started without a copy, 0: never. sessions: that may still create or
    remove what it needs (services.shared.pg.reverse.ends). retired: nothing of an idle pipeline is left.
    prepared_by: the last operation that began to prepare it, as its id. milestone: what the side that it
    writes to must have (rule 83). seen_us: until when its source is known to have had everything that its
    destination had committed, because both are written to (microseconds since the Unix epoch, by the
    destination's clock); 0: only the source is written to.
    """

    direction: Direction
    state: PipelineState
    state_since: float
    resume_state: PipelineState | None = None
    failure: Failure | None = None
    slot: SlotRecord | None = None
    published: tuple[TableId, ...] = ()
    inserts_only: tuple[TableId, ...] = ()
    copied_only: tuple[TableId, ...] = ()
    altered: tuple[IdentityBefore, ...] = ()
    sends_generated: bool = False
    files: tuple[TableFile, ...] = ()
    tables: tuple[TableRecord, ...] = ()
    dropped: tuple[DroppedTable, ...] = ()
    damaged: tuple[TableId, ...] = ()
    applier_epoch: str = ""
    snapshot_id: str = ""
    flushed_lsn: Lsn = Lsn(0)
    skipped: tuple[SkippedTransaction, ...] = ()
    guard: Guard | None = None
    watched: bool = False
    turn: int = 0
    sessions: EndSessions = field(default_factory=EndSessions)
    retired: bool = False
    prepared_by: str = ""
    milestone: Milestone | None = None
    seen_us: int = 0


@dataclass(frozen=True, slots=True)
class HandoverRecord:
    """What a switchover has done to applications, apart from the freeze. Written before it is done.

    operation_id: of that switchover; "": nothing was done yet. hook_started: the hook before the freeze.
    paused: poolers that are paused, or may be, as connection strings without passwords. hook_expected: they
    were paused for a switchover with a hook after the decision. concluded: the hook after the decision or the
    roll-back has ended. hook_succeeded: that one succeeded.
    """

    operation_id: str = ""
    hook_started: bool = False
    paused: tuple[str, ...] = ()
    hook_expected: bool = False
    concluded: bool = False
    hook_succeeded: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """A migration and its pipelines, one for each direction; the forward one is always there. They are stored
    together, so that one write can end one pipeline and begin the other.

    instance: a random identity of the migration, since ids are used again after `cleanup`. term: how many
    coordinators have taken the migration over, counted in the store. revision grows with every change.
    Which of two records of one id counts: `supersedes`. failure: why the last switchover was rolled back.
    active: the direction of the pipeline that works, or that worked last. In phase bidirectional both work,
    and it is the forward one.
    freeze: written before the source is frozen: how to thaw it. destination_freeze: the same of the
    destination, which a rollback freezes. A side that was left keeps it as long as the other direction works.
    operations: the last ones, the oldest first.
    One of them runs while the phase is switchover, and until its end is stored after that. certificates: of
    the last switchovers that were decided (services.coordinator.migration.certificates). parted: both sides
    were written to, and each may go on alone. left: a line for
    each thing that an abort or a cleanup could not remove.
    """

    migration_id: str
    revision: int
    phase: MigrationPhase
    options: MigrationOptions
    source: Endpoint
    destination: Endpoint
    created_at: float
    phase_since: float
    pipelines: tuple[PipelineRecord, ...]
    failure: Failure | None = None
    freeze: Before | None = None
    destination_freeze: Before | None = None
    active: Direction = Direction.FORWARD
    switchover: SwitchoverResult | None = None
    events: tuple[Event, ...] = ()
    instance: str = ""
    term: int = 0
    source_identity: DatabaseIdentity | None = None
    destination_identity: DatabaseIdentity | None = None
    operations: tuple[Operation, ...] = ()
    certificates: tuple[StoredCertificate, ...] = ()
    handover: HandoverRecord = field(default_factory=HandoverRecord)
    left: tuple[str, ...] = ()
    parted: bool = False

    def pipeline(self, direction: Direction) -> PipelineRecord:
        """Raises KeyError if the migration has no pipeline in that direction."""
        return {one.direction: one for one in self.pipelines}[direction]

    @property
    def forward(self) -> PipelineRecord:
        return self.pipeline(Direction.FORWARD)

    @property
    def pipeline_ids(self) -> tuple[PipelineId, ...]:
        migration = MigrationId.parse(self.migration_id)
        return tuple(PipelineId(migration, one.direction) for one in self.pipelines)

    def with_pipeline(self, pipeline: PipelineRecord) -> Record:
        """With that pipeline in place of the one of its direction, or added to the others."""
        others = (one for one in self.pipelines if one.direction is not pipeline.direction)
        return replace(self, pipelines=tuple(sorted((*others, pipeline), key=lambda one: one.direction)))

    @property
    def idle(self) -> PipelineRecord | None:
        """The pipeline in the other direction. None if there was never one, or all have ended."""
        found = [one for one in self.pipelines if one.state is PipelineState.IDLE]
        return found[0] if found else None

    @property
    def finalized(self) -> bool:
        """Whether it ended while changes of the destination were replicated back, and so without a switchover
        as the last step."""
        if self.opened_both:
            return self.phase is MigrationPhase.COMPLETE
        turns = {one.direction: one.turn for one in self.pipelines}
        back = turns.get(Direction.REVERSE, 0) > turns[Direction.FORWARD]
        return back and self.phase is MigrationPhase.SWITCHED_OVER

    def frozen(self, direction: Direction) -> Before | None:
        """How to thaw the database that a pipeline of that direction replicates from. None: it is not
        frozen."""
        return self.freeze if direction is Direction.FORWARD else self.destination_freeze

    def with_frozen(self, direction: Direction, freeze: Before | None) -> Record:
        if direction is Direction.FORWARD:
            return replace(self, freeze=freeze)
        return replace(self, destination_freeze=freeze)

    def frozen_side(self, side: str) -> Before | None:
        """side: "source" or "destination" of the migration."""
        return self.freeze if side == "source" else self.destination_freeze

    def ends(self, direction: Direction) -> tuple[Endpoint, Endpoint]:
        """The databases from which and to which a pipeline of that direction replicates."""
        ends = self.source, self.destination
        return ends if direction is Direction.FORWARD else ends[::-1]

    @property
    def working(self) -> tuple[PipelineRecord, ...]:
        """The pipelines that work, or that worked last. The forward one first."""
        return tuple(one for one in self.pipelines if self.works(one.direction))

    @property
    def opened_both(self) -> bool:
        """Whether both sides are written to, or were."""
        return self.forward.seen_us > 0

    def works(self, direction: Direction) -> bool:
        """Whether a pipeline of that direction works, or worked last."""
        return self.phase is MigrationPhase.BIDIRECTIONAL or direction is self.active

    @property
    def shown(self) -> PipelineRecord:
        """The pipeline whose state is shown: of two that work, one that has failed, or one that is paused."""
        order = PipelineState.FAILED, PipelineState.PAUSED
        return min(self.working, key=lambda one: order.index(one.state) if one.state in order else len(order))

    @property
    def shown_phase(self) -> Phase:
        """For clients and messages."""
        return shown_phase(self.phase, self.shown.state)


def same_migration(one: Record, other: Record) -> bool:
    """Whether both belong to the same migration, and not to two that used the same id one after the other."""
    return (one.instance, one.created_at) == (other.instance, other.created_at)


def supersedes(record: Record, other: Record) -> bool:
    """Whether `record` is newer than `other`, which has the same id.

    Of two migrations, the one that was created later is newer. Of one migration, the record of the later
    coordinator is newer: an earlier one without access to the store still raises the revision in its file.
    Records of the same coordinator are compared by their revision.
    """
    if not same_migration(record, other):
        return record.created_at > other.created_at
    return (record.term, record.revision) > (other.term, other.revision)


def mark_of(record: Record) -> bytes:
    """What the store keeps of a migration that was cleaned up."""
    return json.dumps({"instance": record.instance, "created_at": record.created_at}).encode()


def marked(record: Record, mark: bytes) -> bool:
    """Whether `mark` is that of the record's migration, or of a later one with its id. Marks of earlier
    releases are empty, and stand for every migration of the id. So do marks that cannot be read."""
    try:
        known = json.loads(mark)
        instance, created_at = str(known["instance"]), float(known["created_at"])
    except (ValueError, KeyError, TypeError):
        return True
    return (record.instance, record.created_at) == (instance, created_at) or record.created_at < created_at


def record_to_json(record: Record) -> dict[str, object]:
    return {"format": FORMAT, "record": to_json(record)}


def record_from_json(obj: object) -> Record:
    """Raises PgmigError(CORRUPT) for an object that `record_to_json` did not create."""
    if not isinstance(obj, dict) or obj.get("format") != FORMAT:
        raise PgmigError(
            ErrorKind.CORRUPT, f"not a migration's state in format {FORMAT}", "use the same release of pgmig"
        )
    try:
        return from_json(Record, obj.get("record"), "record")
    except ValueError as exc:
        raise PgmigError(ErrorKind.CORRUPT, f"a migration's state cannot be read: {exc}") from exc


def pack(record: Record) -> bytes:
    """For the key-value store, whose values are limited by the broker's max_payload."""
    return zlib.compress(json.dumps(record_to_json(record), separators=(",", ":")).encode())


def unpack(data: bytes) -> Record:
    """Raises PgmigError(CORRUPT)."""
    try:
        obj = json.loads(zlib.decompress(data))
    except (zlib.error, ValueError) as exc:
        raise PgmigError(ErrorKind.CORRUPT, f"a migration's state cannot be read: {exc}") from exc
    return record_from_json(obj)
