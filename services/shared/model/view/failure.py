"""Why a pipeline or an operation failed."""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.model.errors import ErrorKind, PgmigError, located
from services.shared.model.lsn import Lsn


@dataclass(frozen=True, slots=True)
class Failure:
    """xid: the source transaction whose commit record is at `lsn`; 0: not about a transaction."""

    kind: ErrorKind
    message: str
    hint: str = ""
    lsn: Lsn = Lsn(0)
    xid: int = 0


def failure_event(failure: Failure) -> str:
    """The event log's line about a failure. Clients that show the failure itself omit this line."""
    return f"failed: {failure.message}{located(failure.lsn, failure.xid)}"


def failure_of(error: PgmigError) -> Failure:
    return Failure(error.kind, error.message, error.hint, error.lsn or Lsn(0), error.xid)


def error_of(failure: Failure) -> PgmigError:
    """The error that `failure_of` converted."""
    return PgmigError(failure.kind, failure.message, failure.hint, failure.lsn or None, failure.xid)
