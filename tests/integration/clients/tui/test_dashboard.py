"""The dashboard shows what an operator needs to know, in terminals of any size."""

from __future__ import annotations

from dataclasses import replace

import pytest
from textual.widgets import Footer

from clients.tui.panels.event_log import EventLog
from clients.tui.panels.header import Timeline, Title, Trouble
from clients.tui.panels.metrics import Card, LagCard, Progress
from clients.tui.panels.sidebar import PositionPanel, WorkerPanel, WorkerStrip
from clients.tui.panels.tables import TableList
from services.shared.model import ErrorKind, Event, EventLevel, Failure, MigrationOptions, Phase, TableState
from tests.support.clients.dashboard import dashboard, heard, heard_revision, reads
from tests.support.clients.tui_scenes import (
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

pytestmark = pytest.mark.usefixtures("no_ticks")


async def test_before_the_first_view_it_shows_the_coordinators_address() -> None:
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
