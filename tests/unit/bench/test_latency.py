"""What the latency bench makes of what writer and watcher saw."""

from __future__ import annotations

import pytest

from tests.bench.latency import delays, percentile


def test_a_row_is_visible_with_the_first_answer_that_covers_it() -> None:
    written = [(1, 0.0, 0.10), (2, 0.1, 0.20), (3, 0.2, 0.25)]
    seen = [(1, 0.11), (3, 0.30)]
    assert delays(written, seen, after=-1.0) == pytest.approx([0.01, 0.05, 0.10])


def test_rows_due_in_the_warm_up_do_not_count() -> None:
    written = [(1, 0.0, 9.0), (2, 1.0, 9.5)]
    assert delays(written, [(2, 10.0)], after=0.5) == [0.5]


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.5)) == (50.0, 99.0, 7.0)
