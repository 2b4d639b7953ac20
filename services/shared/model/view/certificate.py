"""The certificate of a switchover: what was proven before it was decided, and what was measured.

`to_json` makes the document of it that is described in docs/certificate.md. Its digest and how it is stored:
services.shared.model.view.canonical. Times are RFC 3339 in UTC with milliseconds. Numbers of 64 bits are
text, because readers of JSON may keep only 53 bits. "" and null: not known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from services.shared.model.errors import ErrorKind, PgmigError
from services.shared.model.lifecycle.operation_state import OperationKind
from services.shared.model.lsn import Lsn
from services.shared.model.names import Direction
from services.shared.model.tables.selection import Selection
from services.shared.model.tables.table import TableId
from services.shared.model.view.migration import LargeObjects, NoKeyTables
from services.shared.model.view.switchover import FreezeMode

FORMAT = "pgmig-certificate/1"


def instant(seconds: float) -> str:
    """Unix seconds as RFC 3339: 2026-03-01T10:20:30.456Z. "" for 0.0."""
    if not seconds:
        return ""
    moment = datetime.fromtimestamp(math.floor(seconds * 1000) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class CheckName(StrEnum):
    """A check that a switchover makes before it is decided.

    locks-held: the session that locks all tables was alive at the last check. database-closed: the source's
    database accepted no connections, and nobody had opened it since it was closed. no-session-left: no
    session but pgmig's own was left. no-prepared-transaction: there was none. no-open-transaction: without a
    freeze, no other transaction had written and was still open. nothing-behind-sentinel: no change of a
    replicated table was committed between the two sentinels. destination-progress: the progress that
    the destination's own session shows is at or after the second sentinel. tables-equal: every table of
    the source exists on the destination and is as it was copied, with the same columns. indexes-valid: no
    index that is valid on the source is invalid on the destination, before writes were blocked.
    sequences-equal: the destination's sequences have the source's values. truncate: the rows of rewritten
    tables were counted, where the source does not replicate TRUNCATE. unlogged-tables: none has lost its
    rows. unpublished: large objects and extensions' configuration tables were compared and synchronized.
    destination-unwritten: nobody else had written to tables of the destination since they were copied, as far
    as triggers and locks show it.
    """

    LOCKS_HELD = "locks-held"
    DATABASE_CLOSED = "database-closed"
    NO_SESSION_LEFT = "no-session-left"
    NO_PREPARED_TRANSACTION = "no-prepared-transaction"
    NO_OPEN_TRANSACTION = "no-open-transaction"
    NOTHING_BEHIND_SENTINEL = "nothing-behind-sentinel"
    DESTINATION_PROGRESS = "destination-progress"
    TABLES_EQUAL = "tables-equal"
    INDEXES_VALID = "indexes-valid"
    SEQUENCES_EQUAL = "sequences-equal"
    TRUNCATE = "truncate"
    UNLOGGED_TABLES = "unlogged-tables"
    UNPUBLISHED = "unpublished"
    DESTINATION_UNWRITTEN = "destination-unwritten"


class CheckOutcome(StrEnum):
    """A check that fails rolls the switchover back, so no certificate has one."""

    PASSED = "passed"
    NOT_MADE = "not-made"


@dataclass(frozen=True, slots=True)
class CertifiedCheck:
    """detail: what was compared, or why the check was not made."""

    name: CheckName
    outcome: CheckOutcome
    detail: str = ""


@dataclass(frozen=True, slots=True)
class CertifiedMigration:
    """instance: tells it from other migrations that have used the same id."""

    id: str
    instance: str
    created_at: str


@dataclass(frozen=True, slots=True)
class CertifiedOperation:
    """requested_at: by the coordinator's clock. held: an operator let it proceed."""

    id: str
    request_id: str
    kind: OperationKind
    direction: Direction
    requested_at: str
    timeout_ms: int
    held: bool


@dataclass(frozen=True, slots=True)
class CertifiedOptions:
    """The options of the migration that decide what is on the destination; see `MigrationOptions`."""

    selection: Selection
    no_key_tables: NoKeyTables
    large_objects: LargeObjects
    data_only: bool
    no_owner: bool
    no_acl: bool
    skip_objects: tuple[str, ...]
    no_guard_destination: bool = False


@dataclass(frozen=True, slots=True)
class CertifiedServer:
    """As its own session showed it before the decision. insert_lsn, flush_lsn: of the server's own WAL at
    `clock`, the server's own time."""

    host: str
    port: int
    database: str
    database_oid: str
    system_identifier: str
    server_version: str
    server_version_num: int
    timeline: int
    encoding: str
    insert_lsn: Lsn
    flush_lsn: Lsn
    clock: str


@dataclass(frozen=True, slots=True)
class CertifiedFreeze:
    """Times by the coordinator's clock. writes_blocked_at: "" if nobody was blocked. closed_at: when the
    source's database had been closed. decided_at: just before the decision was recorded. downtime_measured:
    false if the coordinator ended before the locks were released. write_downtime_ms is null then."""

    mode: FreezeMode
    writes_blocked_at: str
    closed_at: str
    decided_at: str
    downtime_measured: bool = False
    write_downtime_ms: int | None = None
    workers_stopped: bool | None = None


@dataclass(frozen=True, slots=True)
class CertifiedPositions:
    """Positions in the source's WAL. copied_from: the slot's consistent point. sentinel, second_sentinel: the
    ends of their transactions. destination_progress: up to which the destination has the source's
    transactions, as read on the destination after the second sentinel."""

    copied_from: Lsn
    sentinel: Lsn
    second_sentinel: Lsn
    destination_progress: Lsn


@dataclass(frozen=True, slots=True)
class CertifiedVolume:
    """tables, rows_copied, bytes_copied: of the copy. transactions_applied, rows_applied: as the appliers
    reported them to the coordinator since counted_since. They are a lower limit: what an applier had not yet
    reported when it ended is missing. since_start: whether they cover the migration from its start."""

    tables: int
    rows_copied: str
    bytes_copied: str
    transactions_applied: str
    rows_applied: str
    counted_since: str
    since_start: bool


@dataclass(frozen=True, slots=True)
class CertifiedSequence:
    """called: last_value was already returned by nextval."""

    schema: str
    name: str
    last_value: str
    called: bool


@dataclass(frozen=True, slots=True)
class CertifiedSkip:
    """A source transaction that an operator skipped. xid: 0 if not known."""

    lsn: Lsn
    xid: str
    at: str
    who: str
    reason: str


@dataclass(frozen=True, slots=True)
class NotFollowed:
    """Of these tables not all changes were replicated. inserts_only: UPDATE and DELETE were not. copied_only,
    unlogged: no change was. What the selection left out is in the options."""

    inserts_only: tuple[TableId, ...] = ()
    copied_only: tuple[TableId, ...] = ()
    unlogged: tuple[TableId, ...] = ()


@dataclass(frozen=True, slots=True)
class CertifiedConstraint:
    """A constraint of the destination that is NOT VALID: existing rows may violate it."""

    schema: str
    table: str
    name: str


@dataclass(frozen=True, slots=True)
class CertifiedWrite:
    """A write of somebody else to a table of the destination, which the migration's options accept: its rows
    may differ from the source's. at: the first one of that session, role and application."""

    schema: str
    table: str
    session: str
    at: str


@dataclass(frozen=True, slots=True)
class CertifiedWarning:
    at: str
    text: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison of the rows of both sides. at: when. tables, rows: how many were compared. differences:
    how many rows differ."""

    at: str
    tables: int
    rows: str
    differences: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """comparisons: of rows of both sides; empty: none was made. warnings: those that the event log still had.
    warnings_complete: whether it still had all of its lines."""

    format: str
    pgmig_version: str
    migration: CertifiedMigration
    operation: CertifiedOperation
    options: CertifiedOptions
    source: CertifiedServer
    destination: CertifiedServer
    freeze: CertifiedFreeze
    positions: CertifiedPositions
    volume: CertifiedVolume
    checks: tuple[CertifiedCheck, ...]
    sequences: tuple[CertifiedSequence, ...] = ()
    not_followed: NotFollowed = field(default_factory=NotFollowed)
    skipped_transactions: tuple[CertifiedSkip, ...] = ()
    constraints_not_valid: tuple[CertifiedConstraint, ...] = ()
    destination_writes: tuple[CertifiedWrite, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    warnings: tuple[CertifiedWarning, ...] = ()
    warnings_complete: bool = True


def no_certificate(migration_id: str) -> PgmigError:
    return PgmigError(
        ErrorKind.NOT_FOUND,
        f"there is no such certificate of migration {migration_id}",
        "a certificate is issued when a switchover succeeds; see `pgmig-cli operations` for those there were",
    )


@dataclass(frozen=True, slots=True)
class StoredCertificate:
    """As it is stored and sent. document: the canonical JSON of a Certificate. sha256: its digest in
    hexadecimal; "" until it is issued. From then on it never changes."""

    operation_id: str
    document: str
    sha256: str = ""

    @property
    def issued(self) -> bool:
        return bool(self.sha256)
