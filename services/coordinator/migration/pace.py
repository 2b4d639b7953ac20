"""How often to repeat a task whose cost grows with the number of tables."""

from __future__ import annotations

SHARE = 0.05
"""Share of the time that one such task may use: the views for one client, or the state file."""


def pause(shortest_s: float, took_s: float) -> float:
    """Seconds to wait after the task took `took_s`."""
    return max(shortest_s, took_s / SHARE)
