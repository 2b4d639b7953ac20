"""What a client sees of a migration: one immutable snapshot and its parts.

Times are seconds since the Unix epoch (UTC), as float; 0.0 means none.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from services.shared.model.conflicts.policy import OnConflict
from services.shared.model.lifecycle.pipeline_state import PipelineState
from services.shared.model.lifecycle.shown_phase import Phase
from services.shared.model.lsn import Lsn
from services.shared.model.names import Direction
from services.shared.model.tables.selection import Selection
from services.shared.model.tables.table import TableId
from services.shared.model.view.failure import Failure
from services.shared.model.view.operation import Operation
from services.shared.model.view.readiness import Readiness
from services.shared.model.view.switchover import SwitchoverResult
from services.shared.model.work import Role


class NoKeyTables(StrEnum):
    """How tables without a usable replica identity are handled when changes are replicated.

    refuse: the migration does not start. identity-full: they get REPLICA IDENTITY FULL on the
    source until cleanup. copy-only: they are copied once, and later changes are not replicated.
    insert-only: INSERT and TRUNCATE are replicated, UPDATE and DELETE are not.
    """

    REFUSE = "refuse"
    IDENTITY_FULL = "identity-full"
    COPY_ONLY = "copy-only"
    INSERT_ONLY = "insert-only"


class LargeObjects(StrEnum):
    """How large objects are handled. No publication includes their changes.

    copy: they are copied; if changes are replicated, the switchover compares and synchronizes them
    while writes are blocked. copy-once: they are copied, and later changes are not replicated. skip: they
    are not migrated.
    """

    COPY = "copy"
    COPY_ONCE = "copy-once"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class MigrationOptions:
    """follow: keep applying changes until switchover. copy_workers: parts copied at the same
    time by each copier. index_workers: indexes built at the same time. strict_boundaries: source
    transactions are never combined on the destination. maintenance_work_mem_kb: of each session that
    builds indexes; 0: what the destination's own settings allow. split_tables_larger_than: bytes of heap and
    TOAST above which a table is copied in several parts. max_rate: bytes of COPY data per second
    for each copier; 0: no limit. no_owner: created objects belong to the destination's role. no_acl:
    privileges are not restored.

    selection: the part of the database to migrate. schema_only: no rows and no sequence values.
    data_only: rows are copied into tables that exist on the destination. drop_if_exists: objects that the
    clone creates are first dropped on the destination. confirmed: the `MigrationPlan.token` of the data
    on the destination that the operator agreed to lose; "" for none. skip_objects: objects of the schema that
    are not restored, nor what depends on them; named as in the error: "view app.recent".
    no_guard_destination: others can write to the destination while it is migrated. confirm_after_standby:
    what was written to a server counts as flushed only when its standbys have it, too. bidirectional: when
    all is copied, both sides are written to and receive each other's changes. on_conflict, sequence_stride:
    of such a migration: what is done with conflicts, and whether the sequences of both sides hand out
    different values."""

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
    no_guard_destination: bool = False
    on_conflict: OnConflict = OnConflict.STOP
    confirm_after_standby: bool = False
    bidirectional: bool = False
    sequence_stride: bool = False


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """What a migration would first drop or empty on the destination. misfits: why it cannot begin at all.
    token: identifies exactly what would be lost; "" if nothing would be."""

    drops: tuple[str, ...] = ()
    empties: tuple[str, ...] = ()
    token: str = ""
    misfits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CleanupResult:
    """What `cleanup` removed, one description each. left: what it could not remove, with the reason."""

    removed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parameter:
    """A libpq parameter: sslmode, verify-full."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a database and the parameters to connect to it, without the password.
    server_version_num: 170004 for 17.4. parameters: other libpq parameters, by name."""

    host: str
    port: int
    dbname: str
    user: str
    server_version_num: int = 0
    parameters: tuple[Parameter, ...] = ()

    @property
    def place(self) -> tuple[str, int, str, str]:
        """Host, port, database and user, for which a password is valid."""
        return self.host, self.port, self.dbname, self.user

    @property
    def servers(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each server that the database may be on: a primary and its standbys. Without
        standbys, the one host and port."""
        given = {one.name: one.value for one in self.parameters}
        hosts = given.get("host", self.host).split(",")
        ports = given.get("port", str(self.port)).split(",")
        if len(ports) == 1:
            ports *= len(hosts)
        return tuple((host, int(port)) for host, port in zip(hosts, ports, strict=True))

    @property
    def address(self) -> str:
        """HOST:PORT/DATABASE, with all hosts."""
        return ",".join(f"{host}:{port}" for host, port in self.servers) + f"/{self.dbname}"


@dataclass(frozen=True, slots=True)
class SkippedTransaction:
    """The audit record of a source transaction that an operator skipped.

    lsn: of its commit record. xid: 0 if not known. who: USER@HOST as reported by the client.
    failure: the error of the transaction.
    """

    lsn: Lsn
    xid: int
    at: float
    who: str
    reason: str
    failure: str


SLOT_LOST = "lost"
SLOT_GONE = "gone"
"""What pgmig reports as the status of a slot that no longer exists."""


@dataclass(frozen=True, slots=True)
class Positions:
    """See `Positions` in protos/pgmig/control/v1/migration.proto. lag_bytes and lag_seconds are 0 when
    nothing is pending, and have no meaning until source_lsn is known. retained_bytes: WAL that the slot
    retains on the source. wal_status: of the slot, from pg_replication_slots, or SLOT_GONE."""

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
        """Whether changes are permanently lost: the slot was invalidated or dropped."""
        return self.wal_status in {SLOT_LOST, SLOT_GONE}


@dataclass(frozen=True, slots=True)
class Rates:
    """Throughput of the last seconds (copied or applied), and totals since the start. conflicts: that were
    resolved."""

    rows_per_second: float = 0.0
    bytes_per_second: float = 0.0
    transactions_per_second: float = 0.0
    rows_applied: int = 0
    transactions_applied: int = 0
    conflicts: int = 0


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
    """Progress of indexes and constraints. building: those that are being built now."""

    total: int = 0
    done: int = 0
    building: tuple[str, ...] = ()


class EventLevel(StrEnum):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the migration's event log. number: 1 for the migration's first event, then one more for
    each; 0 for events of releases that did not number them."""

    at: float
    level: EventLevel
    text: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class WorkerView:
    worker_id: str
    role: Role
    host: str
    lost: bool = False


@dataclass(frozen=True, slots=True)
class PipelineView:
    """One direction of a migration. resume_state: that resume returns to, while it is paused or failed.
    positions: of its own source and destination."""

    direction: Direction
    state: PipelineState
    state_since: float = 0.0
    resume_state: PipelineState | None = None
    failure: Failure | None = None
    positions: Positions = Positions()
    rates: Rates = Rates()


@dataclass(frozen=True, slots=True)
class MigrationView:
    """phase: of the migration and the pipelines that work in one word. readiness: None if no switchover
    is ahead, because the migration has ended, does not replicate changes, or lets both sides be written
    to. operation: the one that runs, or the last one. left: a line for each thing that an abort or a
    cleanup could not remove, because its server could not be reached."""

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
    pipelines: tuple[PipelineView, ...] = ()
    readiness: Readiness | None = None
    operation: Operation | None = None
    left: tuple[str, ...] = ()
