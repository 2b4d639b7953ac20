"""The wait between two attempts. It doubles after each failure in a row, up to a limit."""

from __future__ import annotations

import math

_MOST_DOUBLINGS = 30


def back_off_s(first_s: float, longest_s: float, failures: int) -> float:
    """Seconds to wait after a failure. `failures`: the number of failures in a row before it, from 0."""
    return min(longest_s, math.ldexp(first_s, min(failures, _MOST_DOUBLINGS)))
