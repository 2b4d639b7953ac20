"""The wait between two attempts: it doubles with each failure in a row, up to a longest one."""

from __future__ import annotations

import math

_MOST_DOUBLINGS = 30


def back_off_s(first_s: float, longest_s: float, failures: int) -> float:
    """Seconds to wait after `failures` failures in a row before this one (from 0)."""
    return min(longest_s, math.ldexp(first_s, min(failures, _MOST_DOUBLINGS)))
