"""The dashboard: shows arriving views on its panels, and executes commands given by keys.

The subscription (a worker) posts each view; only this app's message handlers access widgets.
Actions run as workers too, so a slow coordinator never blocks the screen, and each of their errors
is shown as a toast. The dashboard holds no state of the migration, so closing it affects nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import ClassVar, Protocol

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import Footer

from clients.presentation.history import INTERVAL_S, History
from clients.session import check_succeeded
from clients.tui import subscription
from clients.tui.panels.panels import Panels
from clients.tui.screens.help import HelpScreen
from clients.tui.screens.switchover import SwitchoverScreen
from clients.tui.subscription import ConnectionLost, SubscriptionEnded, ViewReceived, explained
from clients.tui.themes import PGMIG, SIXTEEN, no_colour, theme
from services.shared.model import MigrationView, Operation, PgmigError, Phase, SwitchoverOptions


class Migrations(subscription.Views, Protocol):
    """The part of a session that the dashboard uses. Every method raises PgmigError."""

    def pause(self, migration_id: str, /) -> Awaitable[object]: ...

    def resume(self, migration_id: str, /) -> Awaitable[object]: ...

    def begin_switchover(self, migration_id: str, options: SwitchoverOptions, /) -> Awaitable[Operation]: ...

    def follow_operation(self, operation_id: str, /) -> AsyncGenerator[Operation, None]: ...

    def cancel_operation(self, operation_id: str, /) -> Awaitable[Operation]: ...


class OperationReceived(Message):
    def __init__(self, operation: Operation) -> None:
        super().__init__()
        self.operation = operation


class SwitchoverEnded(Message):
    """The operation has ended, or cannot be watched; error is None if it succeeded."""

    def __init__(self, error: PgmigError | None) -> None:
        super().__init__()
        self.error = error


class Dashboard(App[None]):
    """The dashboard of one migration. `failure` is the reason if it closed itself."""

    TITLE = "pgmig"
    CSS_PATH = "dashboard.tcss"
    ENABLE_COMMAND_PALETTE = False
    # Textual declares these two as class variables only in its documentation, so mypy rejects ClassVar.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-tiny"), (16, "-short"), (30, "-normal"), (42, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit (migration continues)"),
        Binding("ctrl+c", "quit", show=False, priority=True),
        Binding("s", "switchover", "Switchover"),
        Binding("p", "pause", "Pause"),
        Binding("r", "resume", "Resume"),
        Binding("o", "order", "Order"),
        Binding("question_mark", "help", "Help", key_display="?"),
    ]

    def __init__(
        self,
        session: Migrations,
        migration_id: str,
        address: str = "the coordinator",
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(ansi_color=True if no_colour(os.environ) else None)
        self.register_theme(PGMIG)
        self.register_theme(SIXTEEN)
        self.theme = theme(os.environ, self.console.color_system)
        self.failure: PgmigError | None = None
        self._session = session
        self._migration_id = migration_id
        self._address = address
        self._now = now
        self._view: MigrationView | None = None
        self._heard_at: float | None = None
        self._connected = False
        self.history = History()
        self._panels = Panels(migration_id, address)
        self._dialog: SwitchoverScreen | None = None

    def compose(self) -> ComposeResult:
        yield self._panels
        yield Footer()

    def on_mount(self) -> None:
        self._panels.tables.focus()
        self.set_interval(INTERVAL_S, self.tick)
        listening = subscription.listen(self._session, self._migration_id, self.post_message)
        self.run_worker(listening, name="subscription", group="subscription")

    # Messages from the subscription.

    def on_view_received(self, message: ViewReceived) -> None:
        first = self._view is None
        self._view = message.view
        self._heard_at = self._now()
        self._connected = True
        if first:
            self.history.add(message.view)
        self._panels.banner.clear()
        self._panels.show(message.view, self.history, self._now())
        if self._dialog is not None:
            self._dialog.show_view(message.view)

    def on_connection_lost(self, message: ConnectionLost) -> None:
        self._connected = False
        phase = self._view.phase if self._view is not None else None
        self._panels.banner.lost(message.error, self._heard_at, phase)

    def on_subscription_ended(self, message: SubscriptionEnded) -> None:
        self._connected = False
        if self._view is None:
            self.failure = message.error
            self.exit()
        else:
            self._panels.banner.ended(message.error)

    def tick(self) -> None:
        """Once a second, update the clocks and add a sample to the history, even without a new view."""
        self.history.add(self._view if self._connected else None)
        if self._view is not None:
            self._panels.tick(self._view, self.history, self._now())

    # Keys.

    def action_order(self) -> None:
        self._panels.tables.reorder()

    def action_help(self) -> None:
        self.push_screen(HelpScreen())

    def action_pause(self) -> None:
        self._act("Pause", self._session.pause, "Paused. The source keeps its WAL until resume.")

    def action_resume(self) -> None:
        self._act("Resume", self._session.resume, "Resumed.")

    def action_switchover(self) -> None:
        view = self._view
        if view is None:
            self._toast("Nothing is known of the migration yet", "wait for the connection")
        elif view.operation is not None and not view.operation.state.ended:
            self._dialog = SwitchoverScreen(view, time.monotonic, view.operation)
            self.push_screen(self._dialog, self._forget_dialog)
            self.run_worker(self._follow(view.operation), name="switchover", group="switchover")
        elif view.phase is not Phase.STREAMING:
            self._toast(
                f"A migration in phase {view.phase} cannot be switched over",
                "it can when it is streaming",
            )
        else:
            self._dialog = SwitchoverScreen(view, time.monotonic)
            self.push_screen(self._dialog, self._forget_dialog)

    def _forget_dialog(self, _: None) -> None:
        self._dialog = None

    def _act(self, name: str, action: Callable[[str], Awaitable[object]], done: str) -> None:
        async def act() -> None:
            try:
                await action(self._migration_id)
            except Exception as exc:  # shown: see `explained`
                error = explained(exc, name.lower())
                self._toast(f"{name}: {error}", error.hint)
            else:
                self.notify(done, markup=False)

        self.run_worker(act(), name=name.lower(), group="action", exclusive=True)

    def _toast(self, message: str, hint: str) -> None:
        text = f"{message}\n→ {hint}" if hint else message
        self.notify(text, severity="error", timeout=8, markup=False)

    # Switchover.

    def on_switchover_screen_confirmed(self, message: SwitchoverScreen.Confirmed) -> None:
        self.run_worker(self._switch_over(message.timeout_s), name="switchover", group="switchover")

    async def _switch_over(self, timeout_s: float) -> None:
        options = SwitchoverOptions(round(timeout_s * 1000))
        try:
            operation = await self._session.begin_switchover(self._migration_id, options)
        except Exception as exc:  # shown: see `explained`
            self.post_message(SwitchoverEnded(explained(exc, "switchover")))
        else:
            await self._follow(operation)

    async def _follow(self, operation: Operation) -> None:
        """Show the operation until its end, also if the coordinator is started again meanwhile."""
        error: PgmigError | None = None
        last = operation
        self.post_message(OperationReceived(operation))
        try:
            async with aclosing(self._session.follow_operation(operation.operation_id)) as states:
                async for last in states:
                    self.post_message(OperationReceived(last))
            check_succeeded(last)
        except Exception as exc:  # shown: see `explained`
            error = explained(exc, "switchover")
        self.post_message(SwitchoverEnded(error))

    def on_switchover_screen_cancelled(self, message: SwitchoverScreen.Cancelled) -> None:
        async def cancel(_: str) -> None:
            await self._session.cancel_operation(message.operation_id)

        self._act("Cancel", cancel, "Cancelling: what was changed is being undone.")

    def on_operation_received(self, message: OperationReceived) -> None:
        if self._dialog is not None:
            self._dialog.show_operation(message.operation)

    def on_switchover_ended(self, message: SwitchoverEnded) -> None:
        if self._dialog is not None:
            self._dialog.show_end(message.error)
