"""Errors: one base, one kind each, and one table from kind to what is done about it.

Driver errors are translated at the seam where they arise (`pg`, `bus`, `rpc`), always
`raise ... from exc`, but for those that quote a connection string. Messages never hold credentials or
row values; what another program said passes redaction here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from services.shared.model.lsn import Lsn
from services.shared.model.redaction import redact


class ErrorKind(StrEnum):
    """What went wrong, stable across releases: also the `reason` of google.rpc.ErrorInfo."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    WRONG_PHASE = "WRONG_PHASE"
    UNREACHABLE = "UNREACHABLE"
    AUTHENTICATION = "AUTHENTICATION"
    PERMISSION = "PERMISSION"
    SOURCE_NOT_READY = "SOURCE_NOT_READY"
    DESTINATION_NOT_READY = "DESTINATION_NOT_READY"
    SLOT_EXISTS = "SLOT_EXISTS"
    SLOT_ACTIVE = "SLOT_ACTIVE"
    NO_REPLICA_IDENTITY = "NO_REPLICA_IDENTITY"
    TOOL_MISSING = "TOOL_MISSING"
    CREDENTIALS_NEEDED = "CREDENTIALS_NEEDED"
    CONFIRMATION_NEEDED = "CONFIRMATION_NEEDED"
    TRANSIENT = "TRANSIENT"
    FENCED = "FENCED"
    BROKER = "BROKER"
    STREAM_FULL = "STREAM_FULL"
    GAP = "GAP"
    SNAPSHOT_LOST = "SNAPSHOT_LOST"
    CORRUPT = "CORRUPT"
    SCHEMA_DRIFT = "SCHEMA_DRIFT"
    MISSING_ROW = "MISSING_ROW"
    APPLY_FAILED = "APPLY_FAILED"
    COPY_FAILED = "COPY_FAILED"
    SCHEMA_FAILED = "SCHEMA_FAILED"
    SWITCHOVER_FAILED = "SWITCHOVER_FAILED"
    TIMEOUT = "TIMEOUT"
    INTERNAL = "INTERNAL"
    ORPHAN_ROW = "ORPHAN_ROW"
    DUPLICATE_ROW = "DUPLICATE_ROW"
    DISK_FULL = "DISK_FULL"
    DATABASE_CLOSED = "DATABASE_CLOSED"
    TABLE_CHANGED = "TABLE_CHANGED"
    LATE_WRITES = "LATE_WRITES"
    DEADLOCK = "DEADLOCK"
    UNTRANSLATABLE = "UNTRANSLATABLE"

    @classmethod
    def named(cls, name: str) -> ErrorKind:
        """The kind that another process names; INTERNAL for one that this release does not know."""
        return cls(name) if name in cls.__members__ else cls.INTERNAL


class ExitCode(IntEnum):
    """Exit codes of pgmig-cli; documented in README.md and stable."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    REFUSED = 3  # a check failed: nothing was changed
    UNREACHABLE = 4
    FAILED = 5  # the migration stopped and keeps its state
    TIMEOUT = 6  # rolled back, still running
    NOT_FOUND = 7
    CONFLICT = 8
    LEFT_BEHIND = 9  # done, but something could not be removed
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Policy:
    """What follows from an error kind.

    retry: the work may simply be done again, with back-off.
    status: the gRPC status code's name.
    exit_code: of the CLI.
    """

    retry: bool
    status: str
    exit_code: ExitCode


POLICIES: dict[ErrorKind, Policy] = {
    ErrorKind.INVALID_ARGUMENT: Policy(False, "INVALID_ARGUMENT", ExitCode.USAGE),
    ErrorKind.NOT_FOUND: Policy(False, "NOT_FOUND", ExitCode.NOT_FOUND),
    ErrorKind.ALREADY_EXISTS: Policy(False, "ALREADY_EXISTS", ExitCode.CONFLICT),
    ErrorKind.WRONG_PHASE: Policy(False, "FAILED_PRECONDITION", ExitCode.CONFLICT),
    ErrorKind.UNREACHABLE: Policy(True, "UNAVAILABLE", ExitCode.UNREACHABLE),
    ErrorKind.AUTHENTICATION: Policy(False, "FAILED_PRECONDITION", ExitCode.UNREACHABLE),
    ErrorKind.PERMISSION: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED),
    ErrorKind.SOURCE_NOT_READY: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED),
    ErrorKind.DESTINATION_NOT_READY: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED),
    ErrorKind.SLOT_EXISTS: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED),
    ErrorKind.SLOT_ACTIVE: Policy(True, "FAILED_PRECONDITION", ExitCode.REFUSED),
    ErrorKind.NO_REPLICA_IDENTITY: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED),
    ErrorKind.TOOL_MISSING: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED),
    ErrorKind.CREDENTIALS_NEEDED: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED),
    ErrorKind.CONFIRMATION_NEEDED: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED),
    ErrorKind.TRANSIENT: Policy(True, "UNAVAILABLE", ExitCode.FAILED),
    ErrorKind.FENCED: Policy(True, "ABORTED", ExitCode.FAILED),
    ErrorKind.BROKER: Policy(True, "UNAVAILABLE", ExitCode.UNREACHABLE),
    ErrorKind.STREAM_FULL: Policy(False, "RESOURCE_EXHAUSTED", ExitCode.FAILED),
    ErrorKind.GAP: Policy(False, "DATA_LOSS", ExitCode.FAILED),
    ErrorKind.SNAPSHOT_LOST: Policy(True, "ABORTED", ExitCode.FAILED),
    ErrorKind.CORRUPT: Policy(False, "DATA_LOSS", ExitCode.FAILED),
    ErrorKind.SCHEMA_DRIFT: Policy(False, "FAILED_PRECONDITION", ExitCode.FAILED),
    ErrorKind.MISSING_ROW: Policy(False, "FAILED_PRECONDITION", ExitCode.FAILED),
    ErrorKind.APPLY_FAILED: Policy(False, "FAILED_PRECONDITION", ExitCode.FAILED),
    ErrorKind.COPY_FAILED: Policy(False, "FAILED_PRECONDITION", ExitCode.FAILED),
    ErrorKind.SCHEMA_FAILED: Policy(False, "FAILED_PRECONDITION", ExitCode.FAILED),
    ErrorKind.SWITCHOVER_FAILED: Policy(False, "ABORTED", ExitCode.FAILED),
    ErrorKind.TIMEOUT: Policy(False, "DEADLINE_EXCEEDED", ExitCode.TIMEOUT),
    ErrorKind.INTERNAL: Policy(False, "INTERNAL", ExitCode.INTERNAL),
    ErrorKind.ORPHAN_ROW: Policy(False, "FAILED_PRECONDITION", ExitCode.FAILED),
    ErrorKind.DUPLICATE_ROW: Policy(False, "FAILED_PRECONDITION", ExitCode.FAILED),
    ErrorKind.TABLE_CHANGED: Policy(True, "ABORTED", ExitCode.FAILED),
    ErrorKind.DISK_FULL: Policy(True, "UNAVAILABLE", ExitCode.FAILED),
    ErrorKind.LATE_WRITES: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED),
    ErrorKind.DATABASE_CLOSED: Policy(True, "FAILED_PRECONDITION", ExitCode.REFUSED),
    ErrorKind.DEADLOCK: Policy(True, "ABORTED", ExitCode.FAILED),
    ErrorKind.UNTRANSLATABLE: Policy(False, "FAILED_PRECONDITION", ExitCode.FAILED),
}


class PgmigError(Exception):
    """Any error that pgmig explains: what, where, and what to do next.

    message: what happened and where, one sentence without credentials or row values.
    hint: what the operator does next; may be empty.
    lsn: the source position it concerns, if any. xid: of the source transaction whose commit
    record lies there, 0 when it is not about one.
    """

    def __init__(
        self, kind: ErrorKind, message: str, hint: str = "", lsn: Lsn | None = None, xid: int = 0
    ) -> None:
        self.message = redact(message)
        super().__init__(self.message)
        self.kind = kind
        self.hint = hint
        self.lsn = lsn
        self.xid = xid

    @property
    def policy(self) -> Policy:
        return POLICIES[self.kind]

    @property
    def exit_code(self) -> ExitCode:
        """Of the program that it ends."""
        return self.policy.exit_code

    def __str__(self) -> str:
        return f"{self.message}{located(self.lsn, self.xid)}"


def located(lsn: Lsn | None, xid: int) -> str:
    """` (at LSN 16/B374D848, source transaction 742)`, as far as known."""
    if not lsn:
        return ""
    return f" (at LSN {lsn}, source transaction {xid})" if xid else f" (at LSN {lsn})"
