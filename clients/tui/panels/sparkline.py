"""Sparklines: recent values as block characters, scaled from zero to the largest value shown.

The scale starts at zero, so that a lag between 100 and 101 MiB looks constant.
"""

from __future__ import annotations

from collections.abc import Sequence

_BLOCKS = " ▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None], width: int, height: int = 1) -> list[str]:
    """`height` lines of `width` cells, top line first, newest value at the right edge.

    None is an unknown value and leaves a gap; zero draws the base line.
    """
    if width <= 0 or height <= 0:
        return []
    shown: list[float | None] = list(values[-width:])
    shown[:0] = [None] * (width - len(shown))
    largest = max((value for value in shown if value is not None), default=0.0)
    # An eighth at the top is left empty, so that a chart does not touch the one above it.
    levels = [_level(value, largest, 8 * height - 1) for value in shown]
    return [
        "".join(_BLOCKS[min(8, max(0, level - 8 * row))] for level in levels)
        for row in reversed(range(height))
    ]


def _level(value: float | None, largest: float, steps: int) -> int:
    """0 for a gap, otherwise 1 to `steps`."""
    if value is None:
        return 0
    if largest <= 0 or value <= 0:
        return 1
    return max(1, round(value / largest * steps))
