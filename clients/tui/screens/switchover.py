"""The switchover dialog: what will happen, the operator's confirmation, then each step and the outcome.

The dialog only draws. The app runs the switchover and passes its messages to the dialog, so closing the
dialog, or losing the connection, changes nothing about the switchover.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from clients.presentation import figures
from clients.presentation.readiness import explained
from clients.presentation.switchover import OUTCOMES, PURPOSES, STEPS_IN_ORDER, Attempt, Outcome
from clients.tui.cells import fit
from clients.tui.colours import STYLES
from services.shared.model import (
    MigrationView,
    Operation,
    PgmigError,
    Phase,
    StepState,
)

TIMEOUTS_S = (5, 10, 30, 60, 120, 300)
DEFAULT_TIMEOUT_S = 30
TICK_S = 0.1

_MARKS = {
    StepState.STARTED: ("◐", "bold $accent"),
    StepState.DONE: ("✔", "$success"),
    StepState.FAILED: ("✘", "bold $error"),
}

Part = str | tuple[str, str]


class SwitchoverScreen(ModalScreen[None]):
    """CSS classes for its stages: asking, -running, -over."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,n", "close", "Close"),
        Binding("y", "confirm", "Confirm"),
        Binding("c", "cancel_switchover", "Cancel the switchover"),
        Binding("plus,equals_sign", "longer(1)", show=False),
        Binding("minus", "longer(-1)", show=False),
        Binding("left", "app.focus_previous", show=False),
        Binding("right", "app.focus_next", show=False),
    ]

    class Confirmed(Message):
        """The operator has confirmed; writes may be blocked for timeout_s seconds."""

        def __init__(self, timeout_s: float) -> None:
            super().__init__()
            self.timeout_s = timeout_s

    class Cancelled(Message):
        """The operator cancels the switchover."""

        def __init__(self, operation_id: str) -> None:
            super().__init__()
            self.operation_id = operation_id

    def __init__(
        self, view: MigrationView, monotonic: Callable[[], float], operation: Operation | None = None
    ) -> None:
        """operation: one that runs already, and is shown at once."""
        super().__init__()
        self.attempt = Attempt()
        self.started = operation is not None
        self.timeout_s = operation.options.timeout_ms // 1000 if operation else DEFAULT_TIMEOUT_S
        self._view = view
        self._monotonic = monotonic
        self._heard_at = 0.0
        # Stored as attributes and not looked up, because messages may arrive while the screen is closed.
        self._dialog = Vertical(id="dialog")
        self._text = Static(id="dialog-text", markup=False)
        self._cancel = Button("Cancel", id="cancel")
        self._confirm = Button("Switch over", id="confirm", variant="warning")

    def compose(self) -> ComposeResult:
        with self._dialog:
            with VerticalScroll(id="dialog-body", can_focus=False):
                yield self._text
            with Horizontal(id="dialog-buttons"):
                yield self._cancel
                yield self._confirm

    def on_mount(self) -> None:
        self._cancel.focus()
        self.set_interval(TICK_S, self._tick)
        self._draw()

    def show_view(self, view: MigrationView) -> None:
        self._view = view
        self.attempt = self.attempt.with_view(view)
        self._draw()

    def show_operation(self, operation: Operation) -> None:
        self.attempt = self.attempt.with_operation(operation)
        self._heard_at = self._monotonic()
        self._draw()

    def show_end(self, error: PgmigError | None) -> None:
        self.attempt = self.attempt.with_end(error)
        self._draw()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        event.stop()
        if event.button.id == "confirm":
            self.action_confirm()
        else:
            self.action_close()

    def action_confirm(self) -> None:
        if self.started or self._view.phase is not Phase.STREAMING:
            return
        self.started = True
        self._heard_at = self._monotonic()
        self.app.post_message(self.Confirmed(self.timeout_s))
        self._draw()

    def action_close(self) -> None:
        if self.started and not self.attempt.ended:
            self.app.notify("The switchover is running; its outcome is shown here", markup=False)
            return
        self.dismiss()

    def action_cancel_switchover(self) -> None:
        operation = self.attempt.operation
        if self.attempt.cancellable and operation is not None:
            self.app.post_message(self.Cancelled(operation.operation_id))

    def action_longer(self, by: int) -> None:
        if not self.started:
            at = TIMEOUTS_S.index(self.timeout_s) + by
            self.timeout_s = TIMEOUTS_S[min(max(at, 0), len(TIMEOUTS_S) - 1)]
            self._draw()

    def _tick(self) -> None:
        if self.started and not self.attempt.ended:
            self._draw()

    def _draw(self) -> None:
        over = self.attempt.outcome is not Outcome.RUNNING
        self._dialog.set_class(self.started and not over, "-running")
        for outcome in Outcome:
            name = f"-{outcome.name.lower().replace('_', '-')}"
            self._dialog.set_class(self.attempt.ended and outcome is self.attempt.outcome, name)
        self._confirm.display = not self.started
        self._confirm.disabled = self._view.phase is not Phase.STREAMING
        self._cancel.display = not self.started or self.attempt.ended
        if self.attempt.ended and self._cancel.label != "Close":
            self._cancel.label = "Close"
            self._cancel.focus()
        self._dialog.border_subtitle = "" if self.started else "y switches over · esc cancels"
        self._dialog.border_title, parts = self._stage()
        self._text.update(Content.assemble(*parts))

    def _stage(self) -> tuple[str, list[Part]]:
        if not self.started:
            return "Switch over?", question(self._view, self.timeout_s)
        since = self._monotonic() - self._heard_at if self.attempt.blocked else 0.0
        blocked_s = self.attempt.elapsed_ms / 1000 + since
        parts = progress(self.attempt, blocked_s, self.timeout_s)
        if not self.attempt.ended:
            if self.attempt.waits:
                parts.append("\nReady. It waits for pgmig-cli switchover --proceed.\n")
            if self.attempt.cancellable:
                parts += [("\nc", "bold"), (" cancels it: the source accepts writes again\n", "$muted")]
            return OUTCOMES[Outcome.RUNNING][0], parts
        title, ending = conclusion(self.attempt, self._view)
        return title, [*parts, "\n", *ending]


def question(view: MigrationView, timeout_s: int) -> list[Part]:
    """The current lag, whether anything is in the way, what will happen, and how long writes may be
    blocked."""
    lag = view.positions
    late = lag.lag_seconds > timeout_s
    parts: list[Part] = [
        (figures.endpoint(view.source), "bold"),
        "  ══▶  ",
        (figures.endpoint(view.destination), "bold"),
        "\n\nLag now  ",
        (
            f"{figures.size(lag.lag_bytes)} · {figures.precise(lag.lag_seconds)}",
            "bold $warning" if late else "bold",
        ),
        ("   over the limit: likely to be rolled back" if late else "", "$warning"),
        "\nLimit    ",
        (figures.duration(timeout_s), "bold"),
        ("   + and - change it", "$muted"),
        "\n\n",
    ]
    if view.readiness is not None and view.phase is Phase.STREAMING:
        reasons = ((text, STYLES[tone]) for text, tone in explained(view.readiness))
        parts += ["Ready    ", *reasons, "\n\n"]
    if view.phase is not Phase.STREAMING:
        parts.append(
            (f"Not now: the migration is in phase {view.phase}, not streaming.\n\n", "bold $warning")
        )
    for number, name in enumerate(STEPS_IN_ORDER):
        parts += [(f" {number + 1} ", "$muted"), (fit(name, 11), "bold"), f"{PURPOSES[name]}\n"]
    parts.append(
        f"\nWrites on the source wait from 1 on. If the limit passes before 6 is done, all is undone: "
        f"the source accepts writes again and {view.migration_id} continues as before."
    )
    return parts


def progress(attempt: Attempt, blocked_s: float, timeout_s: int) -> list[Part]:
    """The steps so far, and how long writes have been blocked."""
    result = attempt.result
    downtime = result.write_downtime_ms / 1000 if result is not None else blocked_s
    style = "bold $warning" if attempt.blocked else "bold"
    parts: list[Part] = [
        "Writes blocked for ",
        (f"{downtime:.2f} s", style),
        (f"   limit {figures.duration(timeout_s)}\n\n", "$muted"),
    ]
    if not attempt.steps:
        parts.append(("asking the coordinator …\n" if not attempt.ended else "", "$muted"))
    for step in attempt.steps:
        mark, colour = _MARKS[step.state]
        detail = figures.printable(step.detail) or PURPOSES[step.name]
        parts += [
            (f" {mark} ", colour),
            (fit(figures.printable(step.name), 11), "bold"),
            (fit(f"{step.elapsed_ms / 1000:.2f} s", 9), "$muted"),
            f" {detail}\n",
        ]
    return parts


def conclusion(attempt: Attempt, view: MigrationView) -> tuple[str, list[Part]]:
    """(title, text) of the outcome: the resulting state, and what to do next."""
    message, hint = attempt.reason
    why: list[Part] = [(figures.printable(message), "bold"), "\n"] if message else []
    todo: list[Part] = [("→ ", "bold"), (figures.printable(hint), "bold"), "\n"] if hint else []
    title, onward = OUTCOMES[attempt.outcome]
    if attempt.outcome is Outcome.SWITCHED_OVER:
        return title, _switched(attempt, view)
    if not onward:
        return title, [*why, *todo]
    said: Part = (onward, "bold $error") if attempt.outcome is Outcome.STUCK else onward
    return title, [*why, *todo, "\n", said]


def _switched(attempt: Attempt, view: MigrationView) -> list[Part]:
    result = attempt.result
    parts: list[Part] = []
    if result is not None:
        parts += [
            f"Marker at LSN {figures.lsn(result.sentinel_lsn)} applied, "
            f"{result.sequences:,} sequences set.\n\n"
        ]
    return [
        *parts,
        "Applications go to ",
        (figures.endpoint(view.destination), "bold $success"),
        " from now on.\nWhen they do: ",
        (f"pgmig-cli cleanup --id {view.migration_id}", "bold"),
    ]
