"""What the second sentinel of a switchover says: nothing was committed since the first one."""

from __future__ import annotations

from services.shared.model import ErrorKind, PgmigError, SentinelApplied


def check_nothing_behind(applied: SentinelApplied, first: str) -> None:
    """applied: what the applier says of the second sentinel. first: the token of the first one. Raises
    SWITCHOVER_FAILED unless nothing was changed between them."""
    if applied.since != first:
        raise PgmigError(
            ErrorKind.SWITCHOVER_FAILED,
            "the applier was restarted during the switchover, and cannot say what came after the freeze",
            "writers go on; switch over again",
        )
    if applied.changes:
        raise written_behind(", ".join(f"{count} rows of {table}" for table, count in applied.changes))


def written_behind(what: str) -> PgmigError:
    return PgmigError(
        ErrorKind.SWITCHOVER_FAILED,
        f"the source was written to after the freeze: {what}",
        "writers go on, and nothing is lost; find out who ended our sessions or opened the database, "
        "then switch over again",
    )
