"""The dashboard in a terminal without a terminal: what is heard is shown, every key answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from textual.pilot import Pilot
from textual.widgets import Footer

from clients.presentation.progress import Order
from clients.session import Connection
from clients.tui.app import Dashboard
from clients.tui.panels.event_log import EventLog
from clients.tui.panels.header import Banner, Timeline, Title, Trouble
from clients.tui.panels.metrics import Card, LagCard, Progress
from clients.tui.panels.sidebar import PositionPanel, WorkerPanel, WorkerStrip
from clients.tui.panels.tables import TableList
from clients.tui.program import show_session
from clients.tui.screens.help import HelpScreen
from services.shared.model import (
    ErrorKind,
    Event,
    EventLevel,
    ExitCode,
    Failure,
    MigrationOptions,
    MigrationView,
    PgmigError,
    Phase,
    TableState,
)
from tests.support.tui_scenes import (
    EVENTS,
    MIB,
    START,
    TABLES,
    WORKERS,
    FakeSession,
    failed,
    streaming,
    table,
    view,
)

UNREACHABLE = PgmigError(ErrorKind.UNREACHABLE, "cannot reach coordinator:7432", "check the address")


@pytest.fixture(autouse=True)
def no_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dashboard's own clock stands still, so that its history has the test's samples and no others."""
    monkeypatch.setattr("clients.tui.app.INTERVAL_S", 3600.0)


def dashboard(session: FakeSession) -> Dashboard:
    return Dashboard(session, "shop", "coordinator:7432", now=lambda: START + 1500)


async def until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    """Let messages be handled until `condition` holds; half a minute is a failure."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "the dashboard never got there"
        await pilot.pause()


def shown(pilot: Pilot[None]) -> MigrationView | None:
    """The view that the dashboard shows, whatever dialog is above it."""
    return pilot.app.screen_stack[0].query_one(Title).shown


async def heard(pilot: Pilot[None], phase: Phase) -> None:
    await until(pilot, lambda: (view := shown(pilot)) is not None and view.phase is phase)
    await pilot.pause()


async def heard_revision(pilot: Pilot[None], revision: int) -> None:
    await until(pilot, lambda: (view := shown(pilot)) is not None and view.revision == revision)


def screen_text(pilot: Pilot[None]) -> str:
    """What is on the screen, line by line."""
    return "\n".join(strip.text for strip in pilot.app.screen._compositor.render_strips())


async def reads(pilot: Pilot[None], *parts: str) -> None:
    """Wait until all of `parts` are on the screen, which is painted when the machine has time. Each is
    looked for in the lines as they are, and in all of them as one line with single spaces."""
    end = time.monotonic() + 30
    while missing := [part for part in parts if part not in _both(screen_text(pilot))]:
        assert time.monotonic() < end, (missing, screen_text(pilot))
        await pilot.pause()


def _both(text: str) -> str:
    return f"{text}\n{' '.join(text.split())}"


def toasts(pilot: Pilot[None]) -> list[str]:
    return [note.message for note in pilot.app._notifications]


async def test_before_the_first_view_it_says_whom_it_asks() -> None:
    async with dashboard(FakeSession()).run_test(size=(80, 24)) as pilot:
        await reads(pilot, "connecting to coordinator:7432")


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_everything_an_operator_asks_for_is_on_the_screen(size: tuple[int, int]) -> None:
    async with dashboard(FakeSession(view())).run_test(size=size) as pilot:
        await heard(pilot, Phase.COPY)
        await reads(
            pilot,
            "shop",
            "COPY",
            "25m 00s",
            "db-old.example.net:5432/shop",
            "14.19",
            "db-new.example.net:5432/shop",
            "17.6",
            "switched-over",
            "changes queue up meanwhile",
            "24m 51s",
            "185k/s",
            "181 MiB/s",
            "of 115 GiB",
            "0 of 38",
            "public.orders",
            "61.0%",
            "applier",
            "copying 11 tables",
            "Quit (migration continues)",
            "Help",
        )


async def test_a_wide_screen_shows_positions_and_hosts() -> None:
    async with dashboard(FakeSession(streaming())).run_test(size=(120, 40)) as pilot:
        await heard(pilot, Phase.STREAMING)
        await reads(pilot, "5D/12A10F30", "-1.5 MiB", "5.2M rows, 750k tx", "mig-b.example.net")
        assert pilot.app.query_one(PositionPanel).region.height > 0
        assert pilot.app.query_one(WorkerStrip).region.height == 0


async def test_a_lag_that_shrinks_says_when_it_will_be_gone() -> None:
    session = FakeSession()
    app = dashboard(session)
    async with app.run_test(size=(120, 40)) as pilot:
        for number in range(6):
            behind = replace(streaming().positions, lag_bytes=(20 - number) * MIB, lag_seconds=30.0)
            session.send(replace(streaming(number), phase=Phase.CATCHUP, positions=behind))
            await heard_revision(pilot, number)
            app.tick()
        await pilot.pause()
        await reads(pilot, "15.0 MiB")
        await reads(pilot, "caught up in ~18s")


async def test_time_left_appears_once_the_pace_is_known() -> None:
    session = FakeSession()
    app = dashboard(session)
    async with app.run_test(size=(120, 40)) as pilot:
        for number in range(8):
            grown = replace(TABLES[0], bytes_copied=TABLES[0].bytes_copied + number * 1024**3)
            session.send(replace(view(), revision=number, tables=(grown, *TABLES[1:])))
            await heard_revision(pilot, number)
            app.tick()
        await pilot.pause()
        await reads(pilot, "ETA 1m")


async def test_lost_workers_are_flagged() -> None:
    workers = (*WORKERS[:2], replace(WORKERS[2], lost=True), WORKERS[3])
    session = FakeSession(replace(view(), workers=workers))
    async with dashboard(session).run_test(size=(80, 24)) as pilot:
        await heard(pilot, Phase.COPY)
        await reads(pilot, "1 lost")
        await pilot.resize_terminal(120, 40)
        await pilot.pause()
        await reads(pilot, "mig-b.example.net  LOST")
        assert pilot.app.query_one(WorkerPanel).has_class("-lost")


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_a_failed_migration_shows_cause_position_and_hint(size: tuple[int, int]) -> None:
    async with dashboard(FakeSession(failed())).run_test(size=size) as pilot:
        await heard(pilot, Phase.FAILED)
        await reads(
            pilot,
            "MISSING_ROW",
            "5D/12890F30",
            "found no row with key (id)",
            "look for writes on the destination",
            "r resumes (continues with streaming)",
        )


async def test_the_failure_goes_when_the_migration_is_resumed() -> None:
    session = FakeSession(failed())
    async with dashboard(session).run_test() as pilot:
        await heard(pilot, Phase.FAILED)
        assert pilot.app.query_one(Trouble).display
        session.send(streaming(10))
        await heard(pilot, Phase.STREAMING)
        assert not pilot.app.query_one(Trouble).display


async def test_a_rolled_back_switchover_and_missing_credentials_are_explained() -> None:
    rolled = replace(streaming(), failure=Failure(ErrorKind.TIMEOUT, "not drained within 30s", "allow more"))
    session = FakeSession(rolled)
    async with dashboard(session).run_test(size=(100, 30)) as pilot:
        await heard(pilot, Phase.STREAMING)
        await reads(pilot, "rolled back; the source accepts writes")
        session.send(replace(view(Phase.PAUSED), resume_phase=Phase.COPY, needs_credentials=True))
        await heard(pilot, Phase.PAUSED)
        await reads(pilot, "pgmig-cli resume --id shop")


async def test_a_plain_clone_has_no_lag_to_show() -> None:
    plain = replace(view(), options=MigrationOptions(follow=False))
    async with dashboard(FakeSession(plain)).run_test(size=(120, 40)) as pilot:
        await heard(pilot, Phase.COPY)
        await reads(pilot, "replicates no changes")
        await reads(pilot, "complete")


async def test_hostile_names_stay_in_their_line() -> None:
    evil = replace(table("x", TableState.COPYING, 5, 0.5))
    evil = replace(evil, table=replace(evil.table, name="[red]\x1b[2J\nnext"))
    event = Event(START, EventLevel.ERROR, "[bold]not markup[/bold]\x1b[31m")
    session = FakeSession(replace(view(), tables=(evil,), events=(event,)))
    async with dashboard(session).run_test(size=(120, 40)) as pilot:
        await heard(pilot, Phase.COPY)
        await reads(pilot, "[red]·[2J·next", "[bold]not markup[/bold]·[31m")


# Connection.


async def test_a_lost_connection_shows_a_banner_until_it_is_back() -> None:
    session = FakeSession(view())
    async with dashboard(session).run_test() as pilot:
        await heard(pilot, Phase.COPY)
        banner = pilot.app.query_one(Banner)
        session.send(Connection(UNREACHABLE))
        await until(pilot, lambda: banner.display)
        await pilot.pause()
        await reads(pilot, "Connection lost, trying again")
        await reads(pilot, "public.orders")
        session.send(Connection(None))
        session.send(streaming(5))
        await heard(pilot, Phase.STREAMING)
        assert not banner.display


async def test_losing_the_coordinator_of_an_ended_migration_is_no_alarm() -> None:
    session = FakeSession(replace(streaming(), phase=Phase.SWITCHED_OVER), Connection(UNREACHABLE))
    async with dashboard(session).run_test() as pilot:
        await until(pilot, lambda: pilot.app.query_one(Banner).display)
        await reads(pilot, "has ended")
        assert "⚠" not in screen_text(pilot)


async def test_the_sparklines_leave_a_gap_while_nothing_is_heard() -> None:
    session = FakeSession(view())
    app = dashboard(session)
    async with app.run_test() as pilot:
        await heard(pilot, Phase.COPY)
        session.send(Connection(UNREACHABLE))
        await until(pilot, lambda: pilot.app.query_one(Banner).display)
        app.tick()
        assert app.history.series("rows")[-1] is None


async def test_a_migration_that_is_cleaned_up_keeps_its_last_state_on_the_screen() -> None:
    session = FakeSession(streaming())
    session.send(None)
    async with dashboard(session).run_test() as pilot:
        await until(pilot, lambda: pilot.app.query_one(Banner).display)
        await reads(pilot, "has been cleaned up")
        await reads(pilot, "STREAMING")


async def test_an_error_that_ends_the_feed_is_shown_not_raised() -> None:
    session = FakeSession(streaming())
    session.send(PgmigError(ErrorKind.PERMISSION, "not allowed to watch", "ask for the right"))
    async with dashboard(session).run_test() as pilot:
        await until(pilot, lambda: pilot.app.query_one(Banner).display)
        await reads(pilot, "not allowed to watch")


async def test_a_coordinator_that_was_never_reached_gives_its_exit_code(
    capsys: pytest.CaptureFixture[str],
) -> None:
    session = FakeSession()
    session.send(UNREACHABLE)
    code = await show_session(session, "shop", "coordinator:7432", headless=True)
    assert code == ExitCode.UNREACHABLE
    assert "cannot reach coordinator:7432\nhint: check the address" in capsys.readouterr().err


async def test_an_untranslated_error_is_explained_too() -> None:
    session = FakeSession()
    session.send(RuntimeError("a defect"))
    app = dashboard(session)
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.failure is not None)
    assert app.failure is not None
    assert "RuntimeError: a defect" in app.failure.message


# Keys.


async def test_q_quits_and_asks_nothing_of_the_coordinator() -> None:
    session = FakeSession(view())
    app = dashboard(session)
    async with app.run_test() as pilot:
        await heard(pilot, Phase.COPY)
        await pilot.press("q")
    assert not app.is_running
    assert app.return_code == 0
    assert session.calls == []


async def test_views_that_arrive_while_it_closes_do_no_harm() -> None:
    session = FakeSession(view())
    async with dashboard(session).run_test() as pilot:
        await heard(pilot, Phase.COPY)
        for revision in range(50):
            session.send(streaming(revision))
        await pilot.press("q")


async def test_p_pauses_and_r_resumes() -> None:
    session = FakeSession(streaming())
    async with dashboard(session).run_test() as pilot:
        await heard(pilot, Phase.STREAMING)
        await pilot.press("p")
        await until(pilot, lambda: len(session.calls) == 1)
        await pilot.press("r")
        await until(pilot, lambda: len(session.calls) == 2)
        assert session.calls == [("pause", "shop", 0.0), ("resume", "shop", 0.0)]
        await until(pilot, lambda: len(toasts(pilot)) == 2)
        assert toasts(pilot)[0].startswith("Paused")


@pytest.mark.parametrize(
    "error",
    [
        PgmigError(ErrorKind.WRONG_PHASE, "cannot pause a failed migration", "resume it first"),
        RuntimeError("cannot pause a failed migration"),
    ],
)
async def test_an_action_that_fails_becomes_a_toast_with_its_hint(error: Exception) -> None:
    session = FakeSession(failed())
    session.failing = error
    async with dashboard(session).run_test() as pilot:
        await heard(pilot, Phase.FAILED)
        await pilot.press("p")
        await until(pilot, lambda: len(toasts(pilot)) == 1)
        assert "cannot pause a failed migration" in toasts(pilot)[0]
        assert "→ " in toasts(pilot)[0]
        assert pilot.app.is_running


async def test_question_mark_opens_help_and_escape_closes_it() -> None:
    async with dashboard(FakeSession(view())).run_test(size=(80, 24)) as pilot:
        await heard(pilot, Phase.COPY)
        await pilot.press("question_mark")
        assert isinstance(pilot.app.screen, HelpScreen)
        await reads(pilot, "never affects the migration")
        await pilot.press("escape")
        assert not isinstance(pilot.app.screen, HelpScreen)


async def test_views_go_on_arriving_behind_a_dialog() -> None:
    session = FakeSession(view())
    app = dashboard(session)
    async with app.run_test() as pilot:
        await heard(pilot, Phase.COPY)
        await pilot.press("question_mark")
        session.send(streaming(2))
        await heard(pilot, Phase.STREAMING)
        app.tick()


async def test_o_changes_the_order_of_tables() -> None:
    async with dashboard(FakeSession(view())).run_test() as pilot:
        await heard(pilot, Phase.COPY)
        await pilot.press("o", "o")
        await pilot.pause()
        tables = pilot.app.query_one(TableList)
        assert tables.order is Order.NAME
        assert "Customer Addresses" in tables.render_line(1).text
        await reads(pilot, "by name")


async def test_a_click_on_the_head_of_the_tables_changes_their_order() -> None:
    async with dashboard(FakeSession(view())).run_test() as pilot:
        await heard(pilot, Phase.COPY)
        await pilot.click(TableList, offset=(5, 1))
        assert pilot.app.query_one(TableList).order is Order.SIZE


# Lists.


async def test_events_are_appended_once() -> None:
    session = FakeSession(view())
    async with dashboard(session).run_test() as pilot:
        await heard(pilot, Phase.COPY)
        session.send(
            replace(streaming(), events=(*EVENTS[1:], Event(START + 60, EventLevel.ERROR, "copier lost")))
        )
        await heard(pilot, Phase.STREAMING)
        log = pilot.app.query_one(EventLog)
        assert log.count == len(EVENTS) + 1
        assert [strip.text.count("copier lost") for strip in log.lines] == [0] * len(EVENTS) + [1]


async def test_events_are_wrapped_again_when_the_terminal_changes() -> None:
    long = Event(START, EventLevel.INFO, "word " * 30 + "end")
    async with dashboard(FakeSession(replace(view(), events=(long,)))).run_test(size=(80, 24)) as pilot:
        await heard(pilot, Phase.COPY)
        log = pilot.app.query_one(EventLog)
        before = len(log.lines)
        await pilot.resize_terminal(200, 24)
        await pilot.pause()
        assert len(log.lines) < before


async def test_three_thousand_tables_stay_fluid() -> None:
    tables = tuple(table(f"t{number:04}", TableState.WAITING, 3000 - number) for number in range(3000))
    session = FakeSession(replace(view(), tables=tables))
    async with dashboard(session).run_test(size=(120, 40)) as pilot:
        await heard(pilot, Phase.COPY)
        listed = pilot.app.query_one(TableList)
        await pilot.press("end")
        await until(pilot, lambda: "t2999" in listed.render_line(listed.size.height - 1).text)
        await pilot.press("home")
        await until(pilot, lambda: "t0000" in listed.render_line(1).text)
        await pilot.pause()
        listed.drawn = 0
        changed = (
            replace(tables[0], state=TableState.COPYING),
            *tables[1:-1],
            replace(tables[-1], rows_copied=1),
        )
        session.send(replace(view(Phase.SCHEMA), tables=changed))
        await heard(pilot, Phase.SCHEMA)
        assert listed.drawn == 1, "one visible table changed, so one line is drawn"


async def test_a_view_of_three_thousand_tables_is_shown_within_a_frame_or_two() -> None:
    tables = tuple(table(f"t{number:04}", TableState.COPYING, 3000 - number, 0.1) for number in range(3000))
    async with dashboard(FakeSession(replace(view(), tables=tables))).run_test(size=(120, 40)) as pilot:
        await heard(pilot, Phase.COPY)
        listed = pilot.app.query_one(TableList)
        copies = [tuple(replace(t, bytes_copied=t.bytes_copied + n) for t in tables) for n in range(5)]
        began = time.process_time()
        for copy in copies:
            listed.show(copy)
        assert (time.process_time() - began) / len(copies) < 0.1


# Small and plain terminals.


@pytest.mark.parametrize("size", [(1, 1), (10, 3), (20, 8), (40, 12), (60, 16)])
async def test_a_tiny_terminal_shows_what_it_can(size: tuple[int, int]) -> None:
    session = FakeSession(view())
    async with dashboard(session).run_test(size=size) as pilot:
        await heard(pilot, Phase.COPY)
        session.send(failed())
        await heard(pilot, Phase.FAILED)
        await pilot.press("o", "question_mark", "escape")
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        await reads(pilot, "FAILED")


async def test_no_color_sends_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with dashboard(FakeSession(view())).run_test(size=(120, 40)) as pilot:
        await heard(pilot, Phase.COPY)
        await pilot.pause()
        colours = set()
        for widget in (Title, Timeline, Progress, LagCard, Card, TableList, EventLog, Footer):
            for line in (
                pilot.app.query(widget).first().render_lines(pilot.app.query(widget).first().size.region)
            ):
                for segment in line:
                    if segment.style is not None:
                        colours |= {segment.style.color, segment.style.bgcolor}
        assert {colour.name for colour in colours if colour is not None} <= {"default"}
