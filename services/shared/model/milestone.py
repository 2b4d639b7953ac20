"""A point in the work of a pipeline on the server that it writes to."""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.model.lsn import Lsn


@dataclass(frozen=True, slots=True)
class Milestone:
    """token: of a row that was written after the work, see services.shared.pg.bookkeeping.milestone.
    timeline, lsn: of that server then, for messages."""

    token: str
    timeline: int
    lsn: Lsn
