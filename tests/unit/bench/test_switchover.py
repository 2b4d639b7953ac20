"""The gap that `make bench-switchover` reports."""

from __future__ import annotations

import pytest

from tests.bench.switchover import gap_ms


def test_gap_is_from_the_last_commit_on_the_source_to_the_first_on_the_destination() -> None:
    acknowledged = [(1, 0, 10.0), (2, 0, 10.5), (4, 1, 10.75), (5, 1, 10.8)]
    assert gap_ms(acknowledged) == pytest.approx(250.0)


def test_client_that_never_crossed_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        gap_ms([(1, 0, 10.0)])
