"""How often to do again what costs the more the more tables a migration has."""

from __future__ import annotations

SHARE = 0.05
"""Of the time, for one such task: views to one client, or the state file."""


def pause(shortest_s: float, took_s: float) -> float:
    """Seconds to wait after the task took `took_s`."""
    return max(shortest_s, took_s / SHARE)
