"""Errors: one base class, one kind for each error, and one table of what each kind leads to.

Driver errors are translated where they arise (`pg`, `bus`, `rpc`), always with `raise ... from exc`,
except errors that quote a connection string. Messages never contain credentials or row values. Texts
from other programs are redacted here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from services.shared.model.lsn import Lsn
from services.shared.model.redaction import redact


class ErrorKind(StrEnum):
    """What went wrong. Kinds are stable across releases, and are the `reason` of google.rpc.ErrorInfo."""

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
    CERTIFICATE_INVALID = "CERTIFICATE_INVALID"
    PROMOTED = "PROMOTED"
    CONFLICT = "CONFLICT"

    @classmethod
    def named(cls, name: str) -> ErrorKind:
        """The kind with this name, sent by another process; INTERNAL if this release does not know it."""
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
    """What an error kind leads to.

    retry: the work can be retried with back-off.
    status: the name of the gRPC status code.
    exit_code: of the CLI.
    http: the status with which the web server answers. 401 and 403 are about its own clients, so they are
    not used for what a database server refuses.
    """

    retry: bool
    status: str
    exit_code: ExitCode
    http: int


POLICIES: dict[ErrorKind, Policy] = {
    ErrorKind.INVALID_ARGUMENT: Policy(False, "INVALID_ARGUMENT", ExitCode.USAGE, 400),
    ErrorKind.NOT_FOUND: Policy(False, "NOT_FOUND", ExitCode.NOT_FOUND, 404),
    ErrorKind.ALREADY_EXISTS: Policy(False, "ALREADY_EXISTS", ExitCode.CONFLICT, 409),
    ErrorKind.WRONG_PHASE: Policy(False, "FAILED_PRECONDITION", ExitCode.CONFLICT, 409),
    ErrorKind.UNREACHABLE: Policy(True, "UNAVAILABLE", ExitCode.UNREACHABLE, 503),
    ErrorKind.AUTHENTICATION: Policy(False, "FAILED_PRECONDITION", ExitCode.UNREACHABLE, 409),
    ErrorKind.PERMISSION: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED, 409),
    ErrorKind.SOURCE_NOT_READY: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED, 409),
    ErrorKind.DESTINATION_NOT_READY: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED, 409),
    ErrorKind.SLOT_EXISTS: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED, 409),
    ErrorKind.SLOT_ACTIVE: Policy(True, "FAILED_PRECONDITION", ExitCode.REFUSED, 409),
    ErrorKind.NO_REPLICA_IDENTITY: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED, 409),
    ErrorKind.TOOL_MISSING: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED, 409),
    ErrorKind.CREDENTIALS_NEEDED: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED, 409),
    ErrorKind.CONFIRMATION_NEEDED: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED, 409),
    ErrorKind.TRANSIENT: Policy(True, "UNAVAILABLE", ExitCode.FAILED, 503),
    ErrorKind.FENCED: Policy(True, "ABORTED", ExitCode.FAILED, 409),
    ErrorKind.BROKER: Policy(True, "UNAVAILABLE", ExitCode.UNREACHABLE, 503),
    ErrorKind.STREAM_FULL: Policy(False, "RESOURCE_EXHAUSTED", ExitCode.FAILED, 507),
    ErrorKind.GAP: Policy(False, "DATA_LOSS", ExitCode.FAILED, 500),
    ErrorKind.SNAPSHOT_LOST: Policy(True, "ABORTED", ExitCode.FAILED, 409),
    ErrorKind.CORRUPT: Policy(False, "DATA_LOSS", ExitCode.FAILED, 500),
    ErrorKind.SCHEMA_DRIFT: Policy(False, "FAILED_PRECONDITION", ExitCode.FAILED, 409),
    ErrorKind.MISSING_ROW: Policy(False, "FAILED_PRECONDITION", ExitCode.FAILED, 409),
    ErrorKind.APPLY_FAILED: Policy(False, "FAILED_PRECONDITION", ExitCode.FAILED, 409),
    ErrorKind.COPY_FAILED: Policy(False, "FAILED_PRECONDITION", ExitCode.FAILED, 409),
    ErrorKind.SCHEMA_FAILED: Policy(False, "FAILED_PRECONDITION", ExitCode.FAILED, 409),
    ErrorKind.SWITCHOVER_FAILED: Policy(False, "ABORTED", ExitCode.FAILED, 409),
    ErrorKind.TIMEOUT: Policy(False, "DEADLINE_EXCEEDED", ExitCode.TIMEOUT, 504),
    ErrorKind.INTERNAL: Policy(False, "INTERNAL", ExitCode.INTERNAL, 500),
    ErrorKind.ORPHAN_ROW: Policy(False, "FAILED_PRECONDITION", ExitCode.FAILED, 409),
    ErrorKind.DUPLICATE_ROW: Policy(False, "FAILED_PRECONDITION", ExitCode.FAILED, 409),
    ErrorKind.TABLE_CHANGED: Policy(True, "ABORTED", ExitCode.FAILED, 409),
    ErrorKind.DISK_FULL: Policy(True, "UNAVAILABLE", ExitCode.FAILED, 507),
    ErrorKind.LATE_WRITES: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED, 409),
    ErrorKind.DATABASE_CLOSED: Policy(True, "FAILED_PRECONDITION", ExitCode.REFUSED, 503),
    ErrorKind.DEADLOCK: Policy(True, "ABORTED", ExitCode.FAILED, 409),
    ErrorKind.UNTRANSLATABLE: Policy(False, "FAILED_PRECONDITION", ExitCode.FAILED, 409),
    ErrorKind.CERTIFICATE_INVALID: Policy(False, "FAILED_PRECONDITION", ExitCode.REFUSED, 409),
    ErrorKind.PROMOTED: Policy(False, "ABORTED", ExitCode.FAILED, 409),
    ErrorKind.CONFLICT: Policy(False, "FAILED_PRECONDITION", ExitCode.FAILED, 409),
}


class PgmigError(Exception):
    """An error that pgmig can explain: what happened, where, and what to do next.

    message: what happened and where, in one sentence without credentials or row values.
    hint: what the operator can do next; may be empty.
    lsn: the source position of the error, if any. xid: the source transaction whose commit record
    is at `lsn`; 0 if the error is not about a transaction.
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
        """Exit code of a program that this error ends."""
        return self.policy.exit_code

    def __str__(self) -> str:
        return f"{self.message}{located(self.lsn, self.xid)}"


class UnansweredError(PgmigError):
    """The coordinator has not answered a call. It may have done what was asked, or may do it later."""


def located(lsn: Lsn | None, xid: int) -> str:
    """` (at LSN 16/B374D848, source transaction 742)`, with the parts that are known."""
    if not lsn:
        return ""
    return f" (at LSN {lsn}, source transaction {xid})" if xid else f" (at LSN {lsn})"
