"""Lines of the event log about attempts that workers repeat by themselves.

A worker reports each failed attempt. The event log shows the first one of an episode. After that it shows the
number of attempts: each time the number has grown tenfold, and every five minutes.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.shared.model import AssignmentRetrying, Role

REPORTED_EVERY_S = 300.0
QUIET_S = 60.0
"""An episode ends after so many seconds without a failed attempt."""
MORE = 10


@dataclass(slots=True)
class _Episode:
    began: float
    reported_at: float
    last: float
    attempts: int = 1
    next_at: int = MORE


class Retries:
    """The episodes of one migration. Times are those of a monotonic clock."""

    def __init__(self) -> None:
        self._episodes: dict[tuple[Role, str], _Episode] = {}

    def clear(self) -> None:
        self._episodes.clear()

    def line(self, now: float, role: Role, report: AssignmentRetrying) -> str | None:
        """Return the line for the event log, or None if this attempt needs none."""
        episode = self._episodes.get((role, report.kind))
        reason = f"{report.message} ({report.hint})" if report.hint else report.message
        if episode is None or now - episode.last > QUIET_S:
            self._episodes[role, report.kind] = _Episode(now, now, now)
            return f"{role} retries: {reason}"
        episode.attempts += 1
        episode.last = now
        if episode.attempts < episode.next_at and now - episode.reported_at < REPORTED_EVERY_S:
            return None
        episode.reported_at = now
        episode.next_at = max(episode.next_at, MORE * episode.attempts)
        return f"{role} has tried {episode.attempts} times within {now - episode.began:.0f} s: {reason}"
