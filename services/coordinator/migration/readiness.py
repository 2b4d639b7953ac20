"""What the coordinator knows about whether a migration can be switched over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from services.coordinator.migration.copy_progress import CopyProgress
from services.coordinator.migration.stream_progress import StreamProgress
from services.shared.model import IndexProgress, TableId
from services.shared.model.readiness_facts import (
    DestinationFacts,
    ForeignWriter,
    ReadinessFacts,
    Seen,
    SourceFacts,
)

WRITERS_KEPT_S = 600.0
"""How long a session that wrote to the destination is reported after it was last seen."""
_WRITERS_KEPT = 20


class Sight:
    """Of one server: when it last answered (monotonic time), and why it did not since."""

    def __init__(self) -> None:
        self.at: float | None = None
        self.error = ""

    def answered(self, now: float) -> None:
        self.at, self.error = now, ""

    def seen(self, now: float) -> Seen:
        return Seen(None if self.at is None else max(0.0, now - self.at), self.error)


class ServersSeen:
    """What both servers showed when they were last asked. unreplicated: tables that were created on the
    source since the migration began, as the comparison of the tables has last seen them."""

    def __init__(self) -> None:
        self.source_sight, self.destination_sight = Sight(), Sight()
        self.source = SourceFacts()
        self.missing: tuple[TableId, ...] = ()
        self.invalid: tuple[TableId, ...] = ()
        self.unguarded = ""
        self.written: tuple[ForeignWriter, ...] = ()
        self.guarding: tuple[str, ...] = ()
        self.unreplicated: tuple[TableId, ...] = ()
        self.no_standby = False
        self._writers: dict[tuple[str, TableId], ForeignWriter] = {}

    def saw_writers(self, writers: Sequence[ForeignWriter], now: float) -> None:
        """now: Unix seconds."""
        self._writers |= {(one.session, one.table): one for one in writers}
        recent = [one for one in self._writers.values() if now - one.at <= WRITERS_KEPT_S]
        recent.sort(key=lambda one: -one.at)
        self._writers = {(one.session, one.table): one for one in recent[:_WRITERS_KEPT]}

    @property
    def destination(self) -> DestinationFacts:
        return DestinationFacts(
            self.missing,
            self.invalid,
            tuple(self._writers.values()),
            self.unguarded,
            self.written,
            self.guarding,
            self.no_standby,
        )


def with_copy(facts: ReadinessFacts, copying: CopyProgress, indexes: IndexProgress) -> ReadinessFacts:
    records = copying.records()
    return replace(
        facts,
        tables=len(records),
        uncopied=tuple(record.table for record in records if not record.copied),
        indexes=indexes.total,
        indexes_done=indexes.done,
    )


def with_stream(
    facts: ReadinessFacts, following: StreamProgress, servers: ServersSeen, now: float
) -> ReadinessFacts:
    """now: time.monotonic()."""
    size, seconds = following.behind(now)
    return replace(
        facts,
        slot_lost=following.slot_lost,
        applier_live=following.working,
        applier_error=following.applier_error,
        lag_bytes=size,
        lag_seconds=seconds,
        unreplicated=servers.unreplicated,
        source=servers.source,
        source_seen=servers.source_sight.seen(now),
        destination=servers.destination,
        destination_seen=servers.destination_sight.seen(now),
    )
