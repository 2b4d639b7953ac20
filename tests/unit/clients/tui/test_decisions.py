"""What the dashboard concludes from views: progress, trends, timeline, a switchover's outcome."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clients.presentation.history import SAMPLES, History, Trend
from clients.presentation.phases import Mark, elapsed, labels, steps
from clients.presentation.progress import (
    Order,
    ordered,
    overall,
    table_fraction,
)
from clients.presentation.sentences import by_role, unseen
from clients.presentation.switchover import Attempt, Outcome
from clients.tui.panels.tables import columns
from clients.tui.themes import PGMIG, SIXTEEN, theme
from services.shared.model import (
    ErrorKind,
    Event,
    EventLevel,
    Failure,
    MigrationOptions,
    MigrationView,
    PgmigError,
    Phase,
    Rates,
    Role,
    StepName,
    StepState,
    SwitchoverStep,
    TableState,
    WorkerView,
)
from tests.support.clients.tui_scenes import EVENTS, MIB, START, STEPS, TABLES, streaming, table, view


def test_overall_progress_counts_bytes_in_units_of_the_estimate() -> None:
    copied = replace(table("a", TableState.COPIED, 100), bytes_copied=300 * MIB)
    copying = replace(table("b", TableState.COPYING, 100), bytes_copied=150 * MIB)
    waiting = table("c", TableState.WAITING, 200)
    found = overall((copied, copying, waiting))
    assert (found.copied, found.copying, found.tables) == (1, 1, 3)
    assert found.fraction == 0.5


def test_the_copy_is_not_complete_before_every_table_is_copied() -> None:
    tables = (table("a", TableState.COPIED, 100), table("empty", TableState.WAITING, 0))
    assert overall(tables).fraction == 0.999
    assert overall(()).fraction == 0.0
    assert table_fraction(replace(tables[0], state=TableState.COPYING)) == 0.999


def test_tables_of_unknown_size_count_by_number() -> None:
    tables = (table("a", TableState.COPIED, 0), table("b", TableState.WAITING, 0))
    assert overall(tables).fraction == 0.5


def copying(done: float, bytes_per_second: float = 0.0) -> MigrationView:
    one = replace(table("a", TableState.COPYING, 2000), bytes_copied=int(done * MIB))
    return replace(view(Phase.COPY), tables=(one,), rates=Rates(0, bytes_per_second))


def copied(*done: float | None) -> History:
    """A sample a second, in MiB."""
    history = History()
    for each in done:
        history.add(copying(each) if each is not None else None)
    return history


def test_the_pace_of_the_copy_needs_samples_and_skips_gaps() -> None:
    assert copied(1, 2, 3).copy_seconds_left(copying(3)) is None
    assert copied(0, None, 4, 6, 8, 10).copy_seconds_left(copying(1980)) == 10.0


def test_time_left_follows_the_pace_of_the_last_minute() -> None:
    assert copied(*[0.0] * 50, *(10.0 * i for i in range(100))).copy_seconds_left(copying(1900)) == 10.0
    assert copied(*[5.0] * 10).copy_seconds_left(copying(5)) is None


def test_time_left_takes_the_reported_rate_until_there_are_samples() -> None:
    now = copying(1000, bytes_per_second=100 * MIB)
    assert History(now).copy_seconds_left(now) == 10.0
    lost = History(now)
    lost.add(None)
    assert lost.copy_seconds_left(now) is None
    assert History(now).copy_seconds_left(replace(now, phase=Phase.INDEXES)) is None


def test_samples_that_come_sooner_than_a_second_are_left_out() -> None:
    history = History()
    for tenth in range(100):
        history.add(copying(tenth), tenth / 10)
    assert history.series("copied") == [float(10 * second * MIB) for second in range(10)]
    assert history.copy_seconds_left(copying(1000)) == 100.0


@pytest.mark.parametrize(
    ("lag", "trend", "left"),
    [
        ([], Trend.UNKNOWN, 0.0),
        ([5.0, None], Trend.UNKNOWN, 0.0),
        ([9.0, 8.0, 7.0, 6.0, 5.0], Trend.SHRINKING, 5.0),
        ([5.0, 6.0, 7.0, 8.0, 9.0], Trend.GROWING, 0.0),
        ([5.0] * 5, Trend.STEADY, 0.0),
        ([5.0] * 5 + [0.0], Trend.CAUGHT_UP, 0.0),
        ([float(i) for i in range(60)] + [59.0 - i for i in range(20)], Trend.SHRINKING, 40.0),
    ],
)
def test_lag_trend(lag: list[float | None], trend: Trend, left: float) -> None:
    history = History()
    for behind in lag:
        positions = replace(streaming().positions, lag_bytes=int(behind)) if behind is not None else None
        history.add(replace(streaming(), positions=positions) if positions is not None else None)
    assert history.lag_trend() == (trend, left)


def test_history_samples_views_and_is_bounded() -> None:
    history = History()
    for _ in range(SAMPLES + 1):
        history.add(streaming())
    history.add(None)
    lags = history.series("lag_bytes")
    assert len(lags) == SAMPLES
    assert lags[-2:] == [1.5 * MIB, None]


def test_lag_is_unknown_before_anything_is_applied() -> None:
    history = History()
    history.add(view(Phase.COPY))
    assert history.series("lag_bytes") == [None]
    assert history.series("bytes") == [181 * MIB]


def test_applying_begins_a_history_of_its_own() -> None:
    history = History()
    history.add(view(Phase.COPY))
    history.add(view(Phase.INDEXES))
    history.add(streaming())
    history.add(replace(streaming(), phase=Phase.PAUSED, resume_phase=Phase.CATCHUP))
    assert len(history.series("rows")) == 2


def test_orders_of_tables() -> None:
    def names(order: Order) -> list[str]:
        return [t.table.name for t in ordered(TABLES, order)]

    assert names(Order.STATE)[:4] == ["orders", "order_items", "payments", "audit_log_2025"]
    assert names(Order.STATE)[-1] == "currencies"
    assert names(Order.SIZE)[:3] == ["orders", "order_items", "audit_log_2025"]
    assert names(Order.NAME)[0] == "Customer Addresses"
    assert names(Order.PROGRESS)[-1] == "products"
    assert Order.PROGRESS.next is Order.STATE


@pytest.mark.parametrize("width", range(10, 200))
def test_table_columns_fill_the_line(width: int) -> None:
    name, rows, size, bar = columns(width)
    assert 2 + name + rows + size + (bar + 2 if bar else 0) + 7 <= max(width, 9)
    assert width < 20 or name >= 10


def test_timeline_of_a_migration_that_replicates_changes() -> None:
    marks = {step.phase: step.mark for step in steps(view(Phase.INDEXES))}
    assert marks[Phase.COPY] is Mark.DONE
    assert marks[Phase.INDEXES] is Mark.NOW
    assert marks[Phase.SWITCHED_OVER] is Mark.TO_COME


def test_timeline_of_a_plain_clone_ends_in_complete() -> None:
    path = steps(replace(view(Phase.COMPLETE), options=MigrationOptions(follow=False)))
    assert [step.phase for step in path][-1] is Phase.COMPLETE
    assert {step.mark for step in path} == {Mark.DONE}


@pytest.mark.parametrize(("phase", "mark"), [(Phase.PAUSED, Mark.PAUSED), (Phase.FAILED, Mark.FAILED)])
def test_a_halted_migration_is_shown_in_the_phase_where_it_resumes(phase: Phase, mark: Mark) -> None:
    path = steps(replace(view(phase), resume_phase=Phase.CATCHUP))
    assert next(step.mark for step in path if step.phase is Phase.CATCHUP) is mark


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("width", [78, 100, 200])
def test_the_timeline_fits_its_line(phase: Phase, width: int) -> None:
    texts, joint = labels(steps(view(phase)), width)
    assert sum(map(len, texts)) + len(joint) * (len(texts) - 1) <= width


def test_a_narrow_timeline_names_only_the_current_phase() -> None:
    texts, _ = labels(steps(view(Phase.COPY)), 40)
    assert texts == ["✔", "✔", "● copy", "○", "○", "○", "○", "○"]


def test_elapsed_stops_at_the_end_and_bears_clocks_that_differ() -> None:
    running = view(Phase.COPY)
    assert elapsed(running, START + 100) == (100.0, 91.0)
    assert elapsed(running, START - 5) == (0.0, 0.0)
    over = replace(running, phase=Phase.SWITCHED_OVER, phase_since=START + 60)
    assert elapsed(over, START + 9999) == (60.0, 0.0)


def test_workers_are_listed_by_role_and_lost_ones_first() -> None:
    workers = (
        WorkerView("a1", Role.APPLIER, "h1"),
        WorkerView("c1", Role.COPIER, "h1"),
        WorkerView("c2", Role.COPIER, "h2", lost=True),
        WorkerView("d1", Role.DECODER, "h1"),
    )
    listed = [(role, [w.worker_id for w in some]) for role, some in by_role(workers)]
    assert listed == [("decoder", ["d1"]), ("copier", ["c2", "c1"]), ("applier", ["a1"])]


def test_only_unseen_events_are_new() -> None:
    more = (*EVENTS, Event(START + 20, EventLevel.INFO, "next"))
    assert tuple(unseen((), EVENTS)) == EVENTS
    assert tuple(unseen(EVENTS, EVENTS)) == ()
    assert tuple(unseen(EVENTS, more)) == more[-1:]


def test_events_dropped_from_the_bounded_tail_do_not_repeat_the_rest() -> None:
    same = Event(START, EventLevel.WARNING, "again")
    assert tuple(unseen((same, same), (same, same, same))) == (same,)
    assert tuple(unseen(EVENTS, (*EVENTS[2:], same))) == (same,)
    assert tuple(unseen(EVENTS, (same,))) == (same,)


@pytest.mark.parametrize(
    ("environ", "colours", "name"),
    [
        ({}, "truecolor", PGMIG.name),
        ({}, "256", PGMIG.name),
        ({}, "standard", SIXTEEN.name),
        ({}, None, SIXTEEN.name),
        ({"NO_COLOR": "1"}, "truecolor", SIXTEEN.name),
        ({"NO_COLOR": ""}, "truecolor", PGMIG.name),
    ],
)
def test_the_theme_suits_the_terminal(environ: dict[str, str], colours: str | None, name: str) -> None:
    assert theme(environ, colours) == name


ROLLED_BACK = SwitchoverStep(StepName.ROLLBACK, StepState.DONE, "source takes writes again", 30_040)
TIMED_OUT = PgmigError(ErrorKind.TIMEOUT, "not drained within 30s", "allow more time")
CUT_OFF = PgmigError(ErrorKind.UNREACHABLE, "connection reset", "check the network")


def attempt(*told: SwitchoverStep) -> Attempt:
    found = Attempt()
    for step in told:
        found = found.with_step(step)
    return found


def test_steps_are_replaced_by_their_newer_state() -> None:
    found = attempt(*STEPS[:4])
    assert [(step.name, step.state) for step in found.steps] == [
        (StepName.FREEZE, StepState.DONE),
        (StepName.SENTINEL, StepState.DONE),
        (StepName.DRAIN, StepState.STARTED),
    ]
    assert found.outcome is Outcome.RUNNING
    assert found.blocked
    assert found.elapsed_ms == 60


def test_a_result_is_success_even_if_the_stream_breaks_after_it() -> None:
    found = attempt(*STEPS).with_end(CUT_OFF)
    assert found.outcome is Outcome.SWITCHED_OVER
    assert not found.blocked


def test_a_rollback_says_why() -> None:
    found = attempt(*STEPS[:4], ROLLED_BACK)
    assert not found.blocked
    ended = found.with_end(TIMED_OUT)
    assert ended.outcome is Outcome.ROLLED_BACK
    assert ended.reason == ("not drained within 30s", "allow more time")


def test_a_rollback_without_an_error_takes_its_reason_from_the_failed_step() -> None:
    failed = SwitchoverStep(StepName.DRAIN, StepState.FAILED, "212 MiB left", 30_000)
    found = attempt(STEPS[1], failed, ROLLED_BACK).with_end(None)
    assert found.outcome is Outcome.ROLLED_BACK
    assert found.reason == ("drain: 212 MiB left", "")


def test_a_failed_rollback_is_not_called_a_rollback() -> None:
    stuck = SwitchoverStep(StepName.ROLLBACK, StepState.FAILED, "source unreachable", 31_000)
    assert attempt(*STEPS[:4], stuck).with_end(TIMED_OUT).outcome is Outcome.STUCK


def test_an_error_before_the_first_step_is_a_refusal() -> None:
    refused = Attempt().with_end(PgmigError(ErrorKind.WRONG_PHASE, "not streaming", "wait"))
    assert refused.outcome is Outcome.REFUSED


def test_a_broken_stream_leaves_the_outcome_unknown_until_the_next_view() -> None:
    broken = attempt(*STEPS[:4]).with_end(CUT_OFF)
    assert broken.outcome is Outcome.UNKNOWN
    assert broken.with_view(view(Phase.SWITCHOVER)).outcome is Outcome.UNKNOWN
    over = replace(view(Phase.SWITCHED_OVER), switchover=STEPS[-1].result)
    assert broken.with_view(over).outcome is Outcome.SWITCHED_OVER
    undone = replace(streaming(), failure=Failure(ErrorKind.TIMEOUT, "not drained", "again"))
    assert broken.with_view(undone).outcome is Outcome.ROLLED_BACK
    assert broken.with_view(undone).reason == ("not drained", "again")
    assert broken.with_view(view(Phase.FAILED)).outcome is Outcome.STUCK


def test_views_before_the_end_leave_the_outcome_open() -> None:
    undone = replace(streaming(), failure=Failure(ErrorKind.TIMEOUT, "an earlier attempt", ""))
    assert attempt(*STEPS[:4]).with_view(undone).with_end(CUT_OFF).outcome is Outcome.UNKNOWN
