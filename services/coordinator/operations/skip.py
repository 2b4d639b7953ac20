"""Skipping a transaction that the destination rejects: when that is allowed, and its audit record.

Only the transaction at which the migration failed can be skipped. The command names its commit LSN, so a
command that was typed for an earlier failure never skips another transaction.
"""

from __future__ import annotations

from dataclasses import replace

from services.coordinator.migration.record import PipelineRecord, Record
from services.shared.model import ErrorKind, Failure, Lsn, PgmigError, PipelineState, SkippedTransaction

LONGEST_TEXT = 2000
"""Characters of what an operator says: the record must fit a message of the broker."""

_OF_A_TRANSACTION = frozenset(
    {
        ErrorKind.APPLY_FAILED,
        ErrorKind.CONFLICT,
        ErrorKind.MISSING_ROW,
        ErrorKind.SCHEMA_DRIFT,
        ErrorKind.PERMISSION,
    }
)


def skippable(failure: Failure) -> bool:
    """Whether it concerns one source transaction. Then its LSN is that of the commit record."""
    return failure.kind in _OF_A_TRANSACTION and bool(failure.lsn and failure.xid)


def explained(failure: Failure, migration_id: str) -> Failure:
    """The error, with `skip-transaction` in its hint if it concerns one transaction."""
    if not skippable(failure):
        return failure
    way = (
        "or give that one transaction up: "
        f"pgmig-cli skip-transaction --id {migration_id} --lsn {failure.lsn} --reason ..."
    )
    return replace(failure, hint=f"{failure.hint}; {way}" if failure.hint else way)


def failed_at(record: Record, lsn: Lsn) -> PipelineRecord:
    """Of the pipelines that work, the one that failed there; if none did, the one whose state is shown."""
    stopped = [one for one in record.working if one.failure is not None and one.failure.lsn == lsn]
    return stopped[0] if stopped else record.shown


def decided(record: Record, lsn: Lsn, reason: str, who: str, now: float) -> SkippedTransaction:
    """The audit record. Raises WRONG_PHASE or INVALID_ARGUMENT if nothing may be skipped."""
    pipeline = failed_at(record, lsn)
    failure = pipeline.failure
    if pipeline.state is not PipelineState.FAILED or failure is None or pipeline.resume_state is None:
        raise PgmigError(
            ErrorKind.WRONG_PHASE,
            f"migration {record.migration_id} is in phase {record.shown_phase}: there is nothing to skip",
            "only the transaction that a migration in phase failed stopped at can be skipped",
        )
    if not skippable(failure):
        raise PgmigError(
            ErrorKind.WRONG_PHASE,
            f"migration {record.migration_id} did not fail at a transaction, but with {failure.kind}: "
            f"{failure.message}",
            failure.hint or "remove the cause, then continue",
        )
    if lsn != failure.lsn:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"migration {record.migration_id} failed at LSN {failure.lsn} "
            f"(source transaction {failure.xid}), not at {lsn}",
            f"check the failure again; to skip that transaction use --lsn {failure.lsn}",
            failure.lsn,
        )
    if not (reason.strip() and who.strip()):
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            "a transaction is skipped only with a reason and a name",
            "give --reason",
        )
    return SkippedTransaction(
        lsn, failure.xid, now, who[:LONGEST_TEXT], reason[:LONGEST_TEXT], failure.message[:LONGEST_TEXT]
    )


def audit_line(skipped: SkippedTransaction) -> str:
    """The text for the event log."""
    return f"source transaction {skipped.xid} at {skipped.lsn} is skipped by {skipped.who}: {skipped.reason}"
