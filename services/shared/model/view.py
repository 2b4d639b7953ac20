"""What a client sees of a migration: one frozen snapshot, and its parts.

Times are seconds since the Unix epoch (UTC), as float; 0.0 means none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from services.shared.model.errors import ErrorKind, located
from services.shared.model.lsn import Lsn
from services.shared.model.phase import Phase
from services.shared.model.selection import Selection
from services.shared.model.tables import TableId
from services.shared.model.work import Role


class NoKeyTables(StrEnum):
    """What becomes of tables without a usable replica identity, when changes are followed.

    refuse: the migration does not start. identity-full: they get REPLICA IDENTITY FULL on the
    source until cleanup. copy-only: copied once, later changes are not replicated. insert-only:
    INSERT and TRUNCATE are followed, UPDATE and DELETE are not.
    """

    REFUSE = "refuse"
    IDENTITY_FULL = "identity-full"
    COPY_ONLY = "copy-only"
    INSERT_ONLY = "insert-only"


class LargeObjects(StrEnum):
    """What becomes of large objects, whose changes no publication carries.

    copy: copied, and where changes are followed compared and brought in step by the switchover
    while writes are blocked. copy-once: copied, later changes are not replicated. skip: left alone.
    """

    COPY = "copy"
    COPY_ONCE = "copy-once"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class MigrationOptions:
    """follow: keep applying changes until switchover. copy_workers: parts copied at the same
    time by each copier. index_workers: indexes built at the same time. strict_boundaries: source
    transactions never share one on the destination. maintenance_work_mem_kb: of each session that
    builds indexes; 0: what the destination's own settings allow. split_tables_larger_than: bytes of heap and
    TOAST beyond which a table is copied in several parts. max_rate: bytes of COPY data a second
    for each copier; 0: as fast as it goes. no_owner: what is made belongs to
    the destination's role. no_acl: privileges are not restored.

    selection: what is migrated of the database. schema_only: no rows and no sequence values.
    data_only: rows go into tables that the destination has. drop_if_exists: what the clone makes
    is dropped on the destination before. confirmed: the `MigrationPlan.token` of what the operator
    agreed to lose on the destination, "" for nothing. skip_objects: of the schema, what is not restored, nor
    what needs it; as the error names it: "view app.recent"."""

    follow: bool = False
    copy_workers: int = 2
    index_workers: int = 2
    no_key_tables: NoKeyTables = NoKeyTables.REFUSE
    strict_boundaries: bool = False
    maintenance_work_mem_kb: int = 0
    split_tables_larger_than: int = 1 << 30
    max_rate: int = 0
    no_owner: bool = False
    no_acl: bool = False
    large_objects: LargeObjects = LargeObjects.COPY
    selection: Selection = field(default_factory=Selection)
    schema_only: bool = False
    data_only: bool = False
    drop_if_exists: bool = False
    confirmed: str = ""
    skip_objects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """What a migration would take from the destination first. misfits: why it cannot begin at all.
    token: names exactly what is lost; "" when nothing is."""

    drops: tuple[str, ...] = ()
    empties: tuple[str, ...] = ()
    token: str = ""
    misfits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CleanupResult:
    """What `cleanup` removed, a description each. left: what it could not remove, with the reason."""

    removed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parameter:
    """Of libpq: sslmode, verify-full."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a database is, and how it is connected to; never a password. server_version_num: 170004 for
    17.4. parameters: libpq's others, by name."""

    host: str
    port: int
    dbname: str
    user: str
    server_version_num: int = 0
    parameters: tuple[Parameter, ...] = ()

    @property
    def place(self) -> tuple[str, int, str, str]:
        """Host, port, database and user: what a password is for."""
        return self.host, self.port, self.dbname, self.user


@dataclass(frozen=True, slots=True)
class Failure:
    """xid: of the source transaction whose commit record lies at `lsn`; 0: not about one."""

    kind: ErrorKind
    message: str
    hint: str = ""
    lsn: Lsn = Lsn(0)
    xid: int = 0


def failure_event(failure: Failure) -> str:
    """The line of the timeline that reports a failure; clients that show the failure itself leave it out."""
    return f"failed: {failure.message}{located(failure.lsn, failure.xid)}"


@dataclass(frozen=True, slots=True)
class SkippedTransaction:
    """The audit record of a source transaction that an operator gave up.

    lsn: of its commit record. xid: 0 when not known. who: USER@HOST as the client says.
    failure: what it failed with.
    """

    lsn: Lsn
    xid: int
    at: float
    who: str
    reason: str
    failure: str


SLOT_LOST = "lost"
SLOT_GONE = "gone"
"""What we say of a slot that does not exist any more."""


@dataclass(frozen=True, slots=True)
class Positions:
    """See `Positions` in protos/pgmig/control/v1/migration.proto. lag_bytes and lag_seconds are 0 when
    nothing is pending; they mean nothing while source_lsn is not known. retained_bytes: WAL that the slot
    keeps on the source. wal_status: of the slot, as pg_replication_slots has it, or SLOT_GONE."""

    source_lsn: Lsn = Lsn(0)
    decoded_lsn: Lsn = Lsn(0)
    applied_lsn: Lsn = Lsn(0)
    flushed_lsn: Lsn = Lsn(0)
    confirmed_lsn: Lsn = Lsn(0)
    lag_bytes: int = 0
    lag_seconds: float = 0.0
    retained_bytes: int = 0
    wal_status: str = ""

    @property
    def slot_lost(self) -> bool:
        """Whether changes are missing for good: the slot was invalidated or dropped."""
        return self.wal_status in {SLOT_LOST, SLOT_GONE}


@dataclass(frozen=True, slots=True)
class Rates:
    """Throughput of the last seconds (copied or applied), and totals since the start."""

    rows_per_second: float = 0.0
    bytes_per_second: float = 0.0
    transactions_per_second: float = 0.0
    rows_applied: int = 0
    transactions_applied: int = 0


class TableState(StrEnum):
    WAITING = "waiting"
    COPYING = "copying"
    COPIED = "copied"


@dataclass(frozen=True, slots=True)
class TableProgress:
    table: TableId
    state: TableState
    rows_estimated: int = 0
    rows_copied: int = 0
    bytes_estimated: int = 0
    bytes_copied: int = 0


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """Of indexes and constraints. building: what is worked on just now."""

    total: int = 0
    done: int = 0
    building: tuple[str, ...] = ()


class EventLevel(StrEnum):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the migration's event log."""

    at: float
    level: EventLevel
    text: str


@dataclass(frozen=True, slots=True)
class WorkerView:
    worker_id: str
    role: Role
    host: str
    lost: bool = False


@dataclass(frozen=True, slots=True)
class SwitchoverResult:
    sentinel_lsn: Lsn
    write_downtime_ms: int
    sequences: int
    finished_at: float


class StepName(StrEnum):
    """The steps of a switchover, in their order; `rollback` takes the place of those that are left.

    unfollowed: the tables and large objects that no publication carries are compared, if there are any.
    """

    FREEZE = "freeze"
    SENTINEL = "sentinel"
    DRAIN = "drain"
    CLOSE = "close"
    SEQUENCES = "sequences"
    UNPUBLISHED = "unfollowed"
    VERIFY = "verify"
    COMMIT = "commit"
    ROLLBACK = "rollback"


class StepState(StrEnum):
    STARTED = "started"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class SwitchoverStep:
    """elapsed_ms: since writes were blocked."""

    name: StepName
    state: StepState
    detail: str = ""
    elapsed_ms: int = 0
    result: SwitchoverResult | None = None


@dataclass(frozen=True, slots=True)
class MigrationView:
    migration_id: str
    phase: Phase
    revision: int = 0
    resume_phase: Phase | None = None
    failure: Failure | None = None
    source: Endpoint = Endpoint("", 0, "", "")
    destination: Endpoint = Endpoint("", 0, "", "")
    options: MigrationOptions = MigrationOptions()
    created_at: float = 0.0
    phase_since: float = 0.0
    positions: Positions = Positions()
    rates: Rates = Rates()
    tables: tuple[TableProgress, ...] = ()
    events: tuple[Event, ...] = ()
    workers: tuple[WorkerView, ...] = ()
    switchover: SwitchoverResult | None = None
    indexes: IndexProgress = field(default_factory=IndexProgress)
    needs_credentials: bool = False
    skipped: tuple[SkippedTransaction, ...] = ()
