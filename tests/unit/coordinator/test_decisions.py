"""What the coordinator decides from values alone."""

from __future__ import annotations

import pytest

from services.coordinator.migration.lag import FAR_BYTES, NEAR_BYTES, LagClock, follow_state, lag_bytes
from services.coordinator.migration.rates import RateMeter, Totals
from services.coordinator.migration.state import Migration
from services.coordinator.migration.stream_progress import StreamProgress
from services.coordinator.pipeline.credentials import Credentials, KnownCredentials
from services.shared.model import (
    ApplierProgress,
    Endpoint,
    Lsn,
    MigrationOptions,
    Phase,
    PipelineState,
)
from services.shared.pg.session.uri import endpoint
from services.shared.runtime.changes import Changes
from tests.support.records import make_record


def test_lag_in_seconds_is_the_age_of_the_oldest_position_not_applied() -> None:
    clock = LagClock()
    for now, position in ((1.0, 10), (2.0, 10), (3.0, 20), (4.0, 30)):
        clock.observe(now, Lsn(position))
    assert clock.seconds(5.0, Lsn(5)) == 4.0
    assert clock.seconds(5.0, Lsn(10)) == 2.0
    assert clock.seconds(9.0, Lsn(30)) == 0.0
    clock.observe(20.0, Lsn(40))
    assert clock.seconds(21.0, Lsn(30)) == 1.0


def test_lag_clock_stays_bounded_and_grows_coarse_with_age() -> None:
    clock = LagClock()
    for second in range(20_000):
        clock.observe(float(second), Lsn(second + 1))
    assert clock.seconds(20_000.0, Lsn(1)) >= 19_000.0
    assert len(clock._seen) <= 4096


def test_there_is_no_lag_before_a_position_is_known() -> None:
    assert lag_bytes(Lsn(100), Lsn(0)) == 0
    assert StreamProgress().behind(1.0) == (0, 0.0)


@pytest.mark.parametrize(
    ("current", "size", "seconds", "target"),
    [
        (PipelineState.CATCHUP, 0, 0.0, PipelineState.STREAMING),
        (PipelineState.CATCHUP, NEAR_BYTES, 100.0, PipelineState.STREAMING),
        (PipelineState.CATCHUP, FAR_BYTES, 1.0, PipelineState.STREAMING),
        (PipelineState.CATCHUP, NEAR_BYTES + 1, 10.0, PipelineState.CATCHUP),
        (PipelineState.STREAMING, NEAR_BYTES + 1, 10.0, PipelineState.STREAMING),
        (PipelineState.STREAMING, FAR_BYTES, 29.0, PipelineState.STREAMING),
        (PipelineState.STREAMING, FAR_BYTES, 31.0, PipelineState.CATCHUP),
    ],
)
def test_the_state_follows_the_lag_without_flapping(
    current: PipelineState, size: int, seconds: float, target: PipelineState
) -> None:
    assert follow_state(current, size, seconds) is target


def test_totals_continue_when_another_applier_takes_over() -> None:
    progress = StreamProgress()
    progress.applier(ApplierProgress("one", Lsn(1), Lsn(1), 0.0, 10, 2, 100))
    progress.applier(ApplierProgress("one", Lsn(2), Lsn(2), 0.0, 15, 3, 150))
    progress.applier_gone()
    assert not progress.live
    progress.applier(ApplierProgress("two", Lsn(3), Lsn(3), 0.0, 1, 1, 10))
    assert progress.live
    assert progress.totals() == Totals(16, 160, 4)


def test_rates_cover_the_window_and_forget_what_is_older() -> None:
    meter = RateMeter()
    assert meter.per_second() == (0.0, 0.0, 0.0)
    meter.observe(0.0, Totals(0, 0, 0))
    meter.observe(2.0, Totals(10, 100, 4))
    assert meter.per_second() == (5.0, 50.0, 2.0)
    for now in (10.0, 12.0, 14.0, 16.0):
        meter.observe(now, Totals(10, 100, 4))
    assert meter.per_second() == (0.0, 0.0, 0.0)


def _accepted(source: Endpoint, destination: Endpoint, offered: Credentials, *, proven: bool) -> Credentials:
    record = make_record(
        "m",
        1,
        Phase.COPY,
        options=MigrationOptions(),
        source=source,
        destination=destination,
        created_at=1.0,
        phase_since=1.0,
    )
    credentials = KnownCredentials(Migration(record, lambda _: ()), Credentials(), Changes())
    credentials.accept(offered, proven=proven)
    return credentials.known


def test_credentials_are_accepted_for_the_recorded_endpoints_only() -> None:
    assert "p@h" not in repr(Credentials("postgresql://u:p@h/s", "postgresql://u:p@h/d"))
    source, destination = Endpoint("h", 5432, "s", "u", 170004), Endpoint("h", 5432, "d", "u", 180001)
    offered = Credentials("postgresql://u:secret@h/s", "postgresql://u:secret@h/other")
    found = _accepted(source, destination, offered, proven=False)
    assert found == Credentials("postgresql://u:secret@h/s", "")
    assert Credentials(destination_uri="x").filled_from(found).complete
    assert _accepted(source, destination, offered, proven=True) == offered


def test_recorded_parameters_complete_what_leads_to_the_same_place() -> None:
    source = endpoint("postgresql://u@h/s?sslmode=verify-full&sslrootcert=system&channel_binding=require")
    destination = endpoint("postgresql://u@h/d")
    offered = Credentials("postgresql://u:secret@h/s", "postgresql://u:secret@h/d")
    found = _accepted(source, destination, offered, proven=False)
    assert endpoint(found.source_uri) == source
    assert "secret" in found.source_uri
    assert found.destination_uri == "postgresql://u:secret@h/d"
    other = Credentials("postgresql://u:secret@other/s", "")
    assert _accepted(source, destination, other, proven=True) == other
