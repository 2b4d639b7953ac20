"""Keys and clicks in the dashboard."""

from __future__ import annotations

import pytest

from clients.presentation.progress import Order
from clients.tui.panels.tables import TableList
from clients.tui.screens.help import HelpScreen
from services.shared.model import ErrorKind, PgmigError, Phase
from tests.support.clients.dashboard import dashboard, heard, reads, toasts, until
from tests.support.clients.tui_scenes import FakeSession, failed, streaming, view

pytestmark = pytest.mark.usefixtures("no_ticks")


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


async def test_views_are_received_while_a_dialog_is_open() -> None:
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
