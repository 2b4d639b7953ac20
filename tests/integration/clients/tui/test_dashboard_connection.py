"""The dashboard while the coordinator cannot be reached, and when the migration has ended."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clients.session import Connection
from clients.tui.panels.header import Banner
from clients.tui.program import show_session
from services.shared.model import ErrorKind, ExitCode, PgmigError, Phase
from tests.support.clients.dashboard import UNREACHABLE, dashboard, heard, reads, screen_text, until
from tests.support.clients.tui_scenes import FakeSession, streaming, view

pytestmark = pytest.mark.usefixtures("no_ticks")


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
