"""The check of a switchover's second sentinel: nothing was committed after the first one."""

from __future__ import annotations

from services.shared.model import ErrorKind, PgmigError, SentinelApplied


def check_nothing_behind(applied: SentinelApplied, first: str) -> None:
    """applied: the applier's report of the second sentinel. first: the token of the first one. Raises
    SWITCHOVER_FAILED if something was changed between them, or if the applier cannot say."""
    if applied.since != first:
        raise PgmigError(
            ErrorKind.SWITCHOVER_FAILED,
            "the applier was restarted during the switchover, and cannot say what came after the freeze",
            "writes are not blocked any more; switch over again",
        )
    if applied.changes:
        raise written_behind(", ".join(f"{count} rows of {table}" for table, count in applied.changes))


def written_behind(what: str) -> PgmigError:
    return PgmigError(
        ErrorKind.SWITCHOVER_FAILED,
        f"the source was written to after the freeze: {what}",
        "writes are not blocked any more, and nothing is lost; find out who ended pgmig's sessions or opened "
        "the database, then switch over again",
    )


def opened_meanwhile(database: str) -> PgmigError:
    """A session that began in between may have written data that no publication contains: large objects,
    sequence values and new tables."""
    return PgmigError(
        ErrorKind.SWITCHOVER_FAILED,
        f"somebody altered database {database} of the source, or let it accept connections during the "
        "switchover",
        "writes are not blocked any more, and nothing is lost; find out who ran ALTER DATABASE, or GRANT or "
        "REVOKE ON DATABASE, then switch over again",
    )
