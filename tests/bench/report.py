"""Lines of a report: spreads over rounds, and what processes used."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tests.bench.processes import Usage


def spread(values: Sequence[float], unit: str = "") -> str:
    """min/median/max; one number when there is only one."""
    if len(values) == 1:
        return f"{values[0]:.2f}{unit}"
    return f"{min(values):.2f}/{statistics.median(values):.2f}/{max(values):.2f}{unit}"


def cpu_text(runs: Sequence[dict[str, Usage]]) -> str:
    """Median CPU seconds by process."""
    names = list(dict.fromkeys(name for run in runs for name in run))
    medians = {name: statistics.median(run.get(name, Usage()).cpu_s for run in runs) for name in names}
    total = sum(medians.values())
    return ", ".join(f"{name} {seconds:.2f}" for name, seconds in medians.items()) + f", all {total:.2f}"


def peak_text(runs: Sequence[dict[str, Usage]], names: Sequence[str]) -> str:
    """The highest peak of all runs, by process."""
    peaks = {name: max(run.get(name, Usage()).peak_mb for run in runs) for name in names}
    return ", ".join(f"{name} {mb:.0f}" for name, mb in peaks.items())
