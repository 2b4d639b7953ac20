"""Whether replication can continue at a server that was promoted.

A promotion begins a new timeline. The history of that timeline says where it left each earlier one. WAL of
an earlier timeline behind that position is not on the promoted server, so what was read from there must not
be on the destination. And the promoted server must have the slot, at a position that the destination has
reached. Only a slot that was synchronized while the server was a standby (from 17 on) fulfils this: no
other slot's WAL and catalog rows are kept on a standby.

PostgreSQL's manual, "Replication Slot Synchronization" in the chapter about logical decoding.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.model import ErrorKind, Lsn, PgmigError
from services.shared.pg.replication.connection import ReplicationConnection, SlotState, slot_state
from services.shared.pg.session.connection import connect, translated

WITHOUT_SLOT = (
    "no changes can be read from the promoted server: clean up with `pgmig-cli cleanup --force`, then clone "
    "again. A promoted standby has the slot only from version 17 on, if it synchronizes it: see Failover in "
    "docs/operating.md"
)
AHEAD_OF_STANDBY = (
    "the destination has changes that the source has lost: clean up with `pgmig-cli cleanup --force`, then "
    "clone again. From version 17 on, synchronized_standby_slots on the source prevents this: see Failover "
    "in docs/operating.md"
)


@dataclass(frozen=True, slots=True)
class Promoted:
    """A source on another timeline than the recorded one. ends: by earlier timeline, the LSN at which its WAL
    ends there. slot: None if it is not there."""

    timeline: int
    flush_lsn: Lsn
    ends: dict[int, Lsn]
    slot: SlotState | None

    @property
    def has_slot(self) -> bool:
        """Whether changes can be read from the slot without a gap."""
        return self.slot is not None and self.slot.synchronized and not self.slot.temporary


async def read_promoted(uri: str, slot: str, side: str, database: str = "") -> Promoted:
    """database: as for `ReplicationConnection.open`."""
    replication = await ReplicationConnection.open(uri, database, side)
    try:
        identity = await replication.identify_system()
        ends = await replication.timeline_history(identity.timeline) if identity.timeline > 1 else {}
    finally:
        await replication.close()
    conn = await connect(uri, side, database=database)
    try:
        with translated(f"checking replication slot {slot}"):
            state = await slot_state(conn, slot)
    finally:
        await conn.close()
    return Promoted(identity.timeline, identity.flush_lsn, ends, state)


def check_continues(found: Promoted, slot: str, timeline: int, applied: Lsn, read: Lsn) -> None:
    """Raise GAP unless replication can continue there.

    timeline: the one that was read until now. applied: the destination's progress. read: the latest
    position of that timeline that the destination depends on, at least `applied`.
    """
    ends = found.ends.get(timeline)
    if ends is None:
        raise PgmigError(
            ErrorKind.GAP,
            f"the source is on timeline {found.timeline} at {found.flush_lsn}, which does not continue "
            f"timeline {timeline}; the destination has the changes before {applied}",
            "let the connection string lead to the server that was promoted last, or clone again",
            applied,
        )
    begins = f"the source was promoted: its timeline {found.timeline} leaves timeline {timeline} at {ends}"
    if read > ends:
        raise PgmigError(
            ErrorKind.GAP,
            f"{begins}, but the destination has what was read up to {read} before",
            AHEAD_OF_STANDBY,
            read,
        )
    state = found.slot
    if state is None or not found.has_slot:
        why = "is missing there" if state is None else "was not synchronized to it"
        raise PgmigError(
            ErrorKind.GAP,
            f"{begins}, and replication slot {slot} {why}; the destination has the changes before {applied}",
            WITHOUT_SLOT,
            applied,
        )
    if state.confirmed_flush_lsn > applied:
        raise PgmigError(
            ErrorKind.GAP,
            f"{begins}. Its slot {slot} does not send changes before {state.confirmed_flush_lsn} any more, "
            f"but the destination has only the changes before {applied}",
            "the changes between are lost to this migration: clean up with `pgmig-cli cleanup --force`, then "
            "clone again",
            applied,
        )
