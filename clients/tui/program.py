"""The dashboard as a program: a session, the app, and the message after it closes."""

from __future__ import annotations

from clients.diagnostics import print_error, say
from clients.session import Session
from clients.tui.app import Dashboard, Migrations
from services.shared.model import ExitCode


async def show(address: str, migration_id: str) -> int:
    """Open the dashboard for the coordinator at `address`; return the exit code."""
    async with Session(address) as session:
        return await show_session(session, migration_id, address)


async def show_session(
    session: Migrations, migration_id: str, address: str, *, headless: bool = False
) -> int:
    """As `show`, with any session."""
    app = Dashboard(session, migration_id, address)
    await app.run_async(headless=headless)
    if app.failure is not None:
        print_error(app.failure)
        return int(app.failure.exit_code)
    if app.return_code:
        return app.return_code
    say(f"The dashboard is closed; migration {migration_id} is not affected by that.")
    return int(ExitCode.OK)
