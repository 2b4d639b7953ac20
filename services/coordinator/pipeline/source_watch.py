"""Reads the state of the source's WAL and of the migration's slot, in every phase.

The slot keeps most WAL on the source's disk while nothing reads it: when the migration is paused or has
failed. So the source is asked then, too. The phases that replicate changes ask it themselves.
"""

from __future__ import annotations

import time
from contextlib import suppress

from services.coordinator.migration.pipeline_status import PipelineStatus
from services.coordinator.pipeline.ends import PipelineEnds
from services.shared.model import (
    SLOT_GONE,
    EventLevel,
    PgmigError,
    PipelineState,
)
from services.shared.pg.replication.position import SourceState, SourceWatch

_ASK_THEMSELVES = frozenset({PipelineState.CATCHUP, PipelineState.STREAMING})
SEARCH_EVERY_S = 15.0
"""Pause between two searches for a missing connection string after a restart."""


def note(pipeline: PipelineStatus, state: SourceState) -> None:
    """Store it for clients. The loss of the slot is logged once."""
    lost_before = pipeline.following.slot_lost
    if pipeline.following.source_state(time.monotonic(), state):
        pipeline.migration.touch()
    if pipeline.following.slot_lost and not lost_before:
        slot = pipeline.id.slot
        text = (
            f"replication slot {slot} does not exist any more"
            if state.wal_status == SLOT_GONE
            else f"replication slot {slot} was invalidated: the source removed WAL that it needs"
        )
        pipeline.migration.event(EventLevel.ERROR, f"{text}; the migration cannot be continued")


class Lookout:
    """The watch of one pipeline. It runs as long as its coordinator."""

    def __init__(self, pipeline: PipelineStatus, credentials: PipelineEnds) -> None:
        self._pipeline = pipeline
        self._credentials = credentials
        self._watch: SourceWatch | None = None
        self._search_at = 0.0

    async def look(self) -> None:
        """Ask the source, if there is a slot and its connection string is known."""
        uri = await self._uri() if self._wanted() else ""
        if self._watch is not None and self._watch.uri != uri:
            await self.close()
        if not uri:
            return
        if self._watch is None:
            self._watch = SourceWatch(uri, self._pipeline.id.slot)
        state = await self._watch.look()
        if state is not None and self._wanted():
            note(self._pipeline, state)

    def _wanted(self) -> bool:
        pipeline, migration = self._pipeline, self._pipeline.migration
        if migration.record.phase.ended or pipeline.state in _ASK_THEMSELVES:
            return False
        return migration.record.options.follow and pipeline.record.slot is not None

    async def _uri(self) -> str:
        if self._credentials.known.source_uri:
            return await self._credentials.known_source(again=False)
        if time.monotonic() >= self._search_at:
            self._search_at = time.monotonic() + SEARCH_EVERY_S
            with suppress(PgmigError):
                return await self._credentials.known_source(again=False)
        return ""

    async def close(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.close()
