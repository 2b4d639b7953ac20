"""What the decoder holds on the source: identity, publication, slot and exported snapshots."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from services.shared.model import (
    DecoderWork,
    ErrorKind,
    Lsn,
    PgmigError,
    PipelineId,
    SlotReady,
    SnapshotReady,
)
from services.shared.pg.replication.connection import ReplicationConnection, SnapshotKeeper, SystemIdentity
from services.shared.pg.replication.publication import check_usable, drop_slot, ensure_publication, read_slot
from services.shared.pg.session.connection import connection

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Snapshots:
    """The snapshot that copiers use. One keeper at a time; if it has died, a new one is created."""

    work: DecoderWork
    pipeline: PipelineId
    assignment_id: str
    keeper: SnapshotKeeper | None = None
    lsn: Lsn = Lsn(0)

    async def adopt(self, exported: str | None, lsn: Lsn) -> None:
        await self.close()
        self.keeper = await SnapshotKeeper.adopt(self.work.source_uri, exported)
        self.lsn = lsn

    async def ready(self) -> SnapshotReady:
        """The open snapshot; a new one with a known LSN if there is none."""
        if self.keeper is None or not await self.keeper.alive():
            await self._fresh()
        assert self.keeper is not None
        return SnapshotReady(self.assignment_id, self.keeper.name, self.lsn, self.keeper.xids)

    async def _fresh(self) -> None:
        """The LSN of the new snapshot is the consistent point of the temporary slot that exports it."""
        if not self.work.follow:
            await self.adopt(None, Lsn(0))
            return
        replication = await ReplicationConnection.open(self.work.source_uri)
        try:
            lsn, exported = await replication.create_slot(self.pipeline.snapshot_slot, temporary=True)
            await self.adopt(exported, lsn)
        finally:
            await replication.close()

    async def close(self) -> None:
        keeper, self.keeper = self.keeper, None
        if keeper is not None:
            await keeper.close()


async def prepare(work: DecoderWork, pipeline: PipelineId, snapshots: Snapshots) -> SlotReady:
    """Make sure that the slot exists and is the recorded one. Raises GAP if it is not.

    If the slot exists although it may still be created, it is ours, from before a crash. Nothing
    was streamed from it, so its confirmed position is its consistent point.
    """
    replication = await ReplicationConnection.open(work.source_uri)
    try:
        identity = await replication.identify_system()
        check_identity(work, identity)
        slot = await read_slot(work.source_uri, pipeline.slot)
        consistent = work.start_lsn
        if slot is None and work.may_create:
            async with connection(work.source_uri, "source") as conn:
                await ensure_publication(
                    conn, pipeline.publication, work.tables, generated=work.sends_generated
                )
                if work.inserts_only:
                    await ensure_publication(
                        conn, pipeline.inserts_publication, work.inserts_only, inserts_only=True
                    )
            consistent, exported = await replication.create_slot(pipeline.slot)
            try:
                await snapshots.adopt(exported, consistent)
            except BaseException:
                await replication.close()  # otherwise the slot remains active
                async with connection(work.source_uri, "source") as conn:
                    await drop_slot(conn, pipeline.slot)
                raise
        else:
            usable = check_usable(slot, pipeline.slot, work.start_lsn)
            consistent = consistent or usable.confirmed_flush_lsn
            if not consistent:
                raise PgmigError(
                    ErrorKind.TRANSIENT,
                    f"replication slot {pipeline.slot} is still being made by an earlier session",
                    "it waits for the source's oldest transaction; end that transaction, or that session",
                )
    finally:
        await replication.close()
    return SlotReady(snapshots.assignment_id, consistent, identity.system_identifier, identity.timeline)


def check_identity(work: DecoderWork, identity: SystemIdentity) -> None:
    """Refuse a source that is not the recorded one (rule 4). Raises GAP, or PROMOTED for a later timeline of
    it: the coordinator decides whether the migration can continue there (rule 81)."""
    if not work.system_identifier:
        return
    recorded = (work.system_identifier, work.timeline)
    found = (identity.system_identifier, identity.timeline)
    if recorded[0] == found[0] and recorded[1] < found[1]:
        raise PgmigError(
            ErrorKind.PROMOTED,
            f"the source is on timeline {found[1]}, and timeline {recorded[1]} was read until now",
        )
    if recorded != found:
        raise PgmigError(
            ErrorKind.GAP,
            f"the source is system {found[0]} on timeline {found[1]}, "
            f"but this migration reads from system {recorded[0]}, timeline {recorded[1]}",
            "let the source's connection string lead to the recorded server, or to the one promoted last",
            identity.flush_lsn,
        )


def check_not_rewound(identity: SystemIdentity, start: Lsn) -> None:
    """Refuse a source whose WAL ends before the position that was read. Only flushed WAL is ever sent, so
    the source was restored to an earlier state, and changes that it commits before `start` would be lost."""
    if identity.flush_lsn < start:
        raise PgmigError(
            ErrorKind.GAP,
            f"the source's WAL ends at {identity.flush_lsn}, but was read up to {start} before",
            "the source was restored to an earlier state: clean up and start the migration again",
            start,
        )


def recorded(work: DecoderWork, ready: SlotReady) -> DecoderWork:
    """`work` for later sessions, which must find the same slot and source."""
    return replace(
        work,
        may_create=False,
        start_lsn=ready.consistent_lsn,
        system_identifier=ready.system_identifier,
        timeline=ready.timeline,
    )
