"""Decides when a full change stream will never have space again. A pure decision.

The applier trims the stream up to what the destination has flushed, and keeps the message in which that
position ends. It cannot trim inside a transaction, since after a restart a transaction must be read from
its beginning. So waiting is useless if everything before the open transaction is flushed and the stream
begins with the message in which that position ended: the transaction does not fit into the stream.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.model import ErrorKind, Lsn, PgmigError
from services.shared.wire.changes import ChangeBatch

REFUSALS = 2
"""After two refusals in a row, the second publication began after the first observation of the stream."""


@dataclass(frozen=True, slots=True)
class Look:
    """A full stream at one moment. refusals: publications refused so far because it was full.
    first, last: its first and last message."""

    refusals: int
    first: ChangeBatch
    last: ChangeBatch
    flushed: Lsn

    @property
    def untrimmable(self) -> bool:
        return self.first.end_lsn == self.last.end_lsn <= self.flushed


def in_vain(before: Look | None, now: Look) -> bool:
    """Whether there will never be space for what waits. `before`: an earlier observation."""
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
