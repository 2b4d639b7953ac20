"""The dashboard without a real terminal, and functions that wait for text on its screen."""

from __future__ import annotations

import time
from collections.abc import Callable

from textual.pilot import Pilot

from clients.tui.app import Dashboard
from clients.tui.panels.header import Title
from services.shared.model import ErrorKind, MigrationView, PgmigError, Phase
from tests.support.clients.tui_scenes import START, FakeSession

UNREACHABLE = PgmigError(ErrorKind.UNREACHABLE, "cannot reach coordinator:7432", "check the address")


def dashboard(session: FakeSession) -> Dashboard:
    return Dashboard(session, "shop", "coordinator:7432", now=lambda: START + 1500)


async def until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    """Let messages be handled until `condition` holds. Fails after half a minute."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "the dashboard never got there"
        await pilot.pause()


def shown(pilot: Pilot[None]) -> MigrationView | None:
    """The view that the dashboard shows, even if a dialog covers it."""
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
    """Wait until all of `parts` are on the screen, which is painted later on a busy machine. Each is
    looked for in the lines as they are, and in all of them as one line with single spaces."""
    end = time.monotonic() + 30
    while missing := [part for part in parts if part not in _both(screen_text(pilot))]:
        assert time.monotonic() < end, (missing, screen_text(pilot))
        await pilot.pause()


def _both(text: str) -> str:
    return f"{text}\n{' '.join(text.split())}"


def toasts(pilot: Pilot[None]) -> list[str]:
    return [note.message for note in pilot.app._notifications]
