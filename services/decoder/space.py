"""When a full change stream will never have space again: a pure decision.

The applier trims the stream behind what the destination has flushed, keeping the message in which
that ends; it cannot be trimmed inside a transaction, since a restart must read that from its
beginning. So when everything before the open transaction is flushed, and the stream begins with the
message in which that ended, then waiting is in vain: transaction and stream do not fit.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.model import ErrorKind, Lsn, PgmigError
from services.shared.wire.changes import ChangeBatch

REFUSALS = 2
"""Of two in a row, the later publication was begun after the former look at the stream."""


@dataclass(frozen=True, slots=True)
class Look:
    """A full stream at one moment. refusals: publications refused so far for lack of space.
    first, last: its first and last message."""

    refusals: int
    first: ChangeBatch
    last: ChangeBatch
    flushed: Lsn

    @property
    def untrimmable(self) -> bool:
        return self.first.end_lsn == self.last.end_lsn <= self.flushed


def in_vain(before: Look | None, now: Look) -> bool:
    """Whether nothing that waits for space can get any; `before`: an earlier look."""
    return (
        before is not None
        and before.untrimmable
        and now.untrimmable
        and (before.first, before.last) == (now.first, now.last)
        and now.refusals >= before.refusals + REFUSALS
    )


def does_not_fit(look: Look, max_bytes: int) -> PgmigError:
    return PgmigError(
        ErrorKind.STREAM_FULL,
        f"the source transaction that follows {look.last.end_lsn} does not fit into the change stream of "
        f"{max_bytes} bytes, and everything before it is applied",
        "set PGMIG_MAX_STREAM_BYTES to more than the size of the transaction for decoder (and give "
        "nats-server the disk), restart the services, then continue",
        look.last.end_lsn,
    )
