"""The dashboard's lists of events and tables, long ones too."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from clients.tui.panels.event_log import EventLog
from clients.tui.panels.tables import TableList
from services.shared.model import Event, EventLevel, Phase, TableState
from tests.support.clients.dashboard import dashboard, heard, until
from tests.support.clients.tui_scenes import EVENTS, START, FakeSession, streaming, table, view

pytestmark = pytest.mark.usefixtures("no_ticks")


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
