"""The lag of the destination, and the phase that it implies.

Bytes are the distance between the end of the source's WAL and the applied position. Seconds are measured on
the coordinator's clock: the time since the end of the source's WAL first passed the position that is applied
now. The servers' clocks are not used, and an idle source has no lag.
"""

from __future__ import annotations

from collections import deque

from services.shared.model import Lsn, PipelineState

NEAR_BYTES = 1 << 20
NEAR_S = 2.0
FAR_BYTES = 64 << 20
FAR_S = 30.0

_SAMPLES = 4096


class LagClock:
    """Remembers when the source reached which position."""

    def __init__(self) -> None:
        self._seen: deque[tuple[Lsn, float]] = deque()

    def observe(self, now: float, source: Lsn) -> None:
        """`now` must not go back; positions that do are ignored."""
        if self._seen and source <= self._seen[-1][0]:
            return
        if len(self._seen) >= _SAMPLES:  # keep every other: coarser, never shorter
            self._seen = deque(list(self._seen)[::2])
        self._seen.append((source, now))

    def seconds(self, now: float, applied: Lsn) -> float:
        """Age of the oldest position not applied yet; 0.0 when there is none."""
        while self._seen and self._seen[0][0] <= applied and len(self._seen) > 1:
            self._seen.popleft()
        if not self._seen or self._seen[0][0] <= applied:
            return 0.0
        return max(0.0, now - self._seen[0][1])


def lag_bytes(source: Lsn, applied: Lsn) -> int:
    """0 also before anything is known of the applier."""
    return max(0, source - applied) if applied else 0


def follow_state(current: PipelineState, behind_bytes: int, behind_s: float) -> PipelineState:
    """catchup or streaming; a lag between near and far leaves the state as it is."""
    if behind_bytes <= NEAR_BYTES or behind_s <= NEAR_S:
        return PipelineState.STREAMING
    if behind_bytes >= FAR_BYTES and behind_s >= FAR_S:
        return PipelineState.CATCHUP
    return current
