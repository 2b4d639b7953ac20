"""The switchover dialog: nothing without an explicit yes, every step shown, the outcome never guessed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from textual.pilot import Pilot
from textual.widgets import Button

from clients.presentation.switchover import Outcome
from clients.tui.app import Dashboard
from clients.tui.screens.switchover import SwitchoverScreen
from services.shared.model import (
    ErrorKind,
    Failure,
    Operation,
    OperationState,
    PgmigError,
    Phase,
    Readiness,
    Reason,
    ReasonCode,
    StepName,
    StepState,
    SwitchoverOptions,
    SwitchoverStep,
)
from tests.support.clients.dashboard import dashboard, heard, reads, screen_text, toasts, until
from tests.support.clients.tui_scenes import STEPS, FakeSession, streaming, view

TIMED_OUT = PgmigError(ErrorKind.TIMEOUT, "the marker was not reached within 30s", "wait for a small lag")
CUT_OFF = PgmigError(ErrorKind.UNREACHABLE, "connection reset by peer", "check the network")


def dialog(pilot: Pilot[None]) -> SwitchoverScreen:
    screen = pilot.app.screen
    assert isinstance(screen, SwitchoverScreen)
    return screen


async def asked(pilot: Pilot[None]) -> SwitchoverScreen:
    """The dialog, opened."""
    await heard(pilot, Phase.STREAMING)
    await pilot.press("s")
    await pilot.pause()
    return dialog(pilot)


async def confirmed(pilot: Pilot[None], session: FakeSession) -> SwitchoverScreen:
    """The dialog, after the operator's yes."""
    screen = await asked(pilot)
    await pilot.press("y")
    await until(pilot, lambda: len(session.calls) == 1)
    return screen


async def concluded(pilot: Pilot[None], screen: SwitchoverScreen, outcome: Outcome, *parts: str) -> None:
    """Wait until `outcome` is known, and the dialog says all of `parts`."""
    await until(pilot, lambda: screen.attempt.outcome is outcome)
    await reads(pilot, *parts)


@pytest.fixture
def session() -> FakeSession:
    return FakeSession(streaming())


@pytest.fixture
def app(session: FakeSession) -> Dashboard:
    return dashboard(session)


async def test_dialog_says_what_is_in_the_way_of_a_switchover() -> None:
    waits = Reason(ReasonCode.PREPARED_TRANSACTIONS, True, "the source has one [b]", "end it")
    app = dashboard(FakeSession(replace(streaming(), readiness=Readiness(False, (waits,)))))
    async with app.run_test(size=(120, 40)) as pilot:
        await asked(pilot)
        await reads(pilot, "Ready    no", "✘ the source has one [b]", "→ end it")


async def test_s_shows_the_lag_and_what_will_happen(app: Dashboard) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        await asked(pilot)
        await reads(
            pilot,
            "Switch over?",
            "db-old.example.net:5432/shop",
            "db-new.example.net:5432/shop",
            "1.5 MiB · 420ms",
            "block writes, end the sessions that write",
            "end replication",
            "all is undone",
            "Cancel",
            "Switch over",
        )


async def test_the_lag_in_the_question_is_kept_up_to_date(app: Dashboard, session: FakeSession) -> None:
    async with app.run_test(size=(100, 30)) as pilot:
        await asked(pilot)
        late = replace(streaming(2).positions, lag_seconds=95.0)
        session.send(replace(streaming(2), positions=late))
        await until(pilot, lambda: "1m 35s" in screen_text(pilot))
        await reads(pilot, "likely to be rolled back")


@pytest.mark.parametrize("keys", [["escape"], ["n"], ["enter"]])
async def test_enter_and_escape_alone_change_nothing(
    app: Dashboard, session: FakeSession, keys: list[str]
) -> None:
    async with app.run_test() as pilot:
        await asked(pilot)
        await pilot.press(*keys)
        await pilot.pause()
        assert not isinstance(pilot.app.screen, SwitchoverScreen)
        assert session.calls == []


@pytest.mark.parametrize("keys", [["y"], ["tab", "enter"], ["right", "enter"]])
async def test_an_explicit_yes_starts_it_once(app: Dashboard, session: FakeSession, keys: list[str]) -> None:
    async with app.run_test() as pilot:
        await asked(pilot)
        await pilot.press(*keys, "y", "enter")
        await until(pilot, lambda: len(session.calls) > 0)
        await pilot.pause()
        assert session.calls == [("switchover", "shop", 30)]


async def test_the_limit_can_be_changed_before_the_yes(app: Dashboard, session: FakeSession) -> None:
    async with app.run_test() as pilot:
        await asked(pilot)
        await pilot.press("plus", "plus", "minus", "y", "plus")
        await until(pilot, lambda: len(session.calls) > 0)
        assert session.calls == [("switchover", "shop", 60)]


async def test_the_limit_stays_in_its_range(app: Dashboard) -> None:
    async with app.run_test() as pilot:
        screen = await asked(pilot)
        await pilot.press(*["minus"] * 9)
        assert screen.timeout_s == 5
        await pilot.press(*["plus"] * 9)
        assert screen.timeout_s == 300


async def test_steps_are_shown_as_they_happen_and_escape_waits(app: Dashboard, session: FakeSession) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await confirmed(pilot, session)
        session.step(*STEPS[:4])
        await until(pilot, lambda: len(screen.attempt.steps) == 3)
        await pilot.pause()
        await reads(pilot, "✔ freeze", "◐ drain", "Writes blocked for")
        await pilot.press("escape")
        await pilot.pause()
        assert pilot.app.screen is screen
        assert "is running" in toasts(pilot)[-1]


async def test_ctrl_c_leaves_even_then(app: Dashboard, session: FakeSession) -> None:
    async with app.run_test() as pilot:
        await confirmed(pilot, session)
        await pilot.press("ctrl+c")
    assert app.return_code == 0


async def test_success_shows_the_write_downtime_and_what_is_next(
    app: Dashboard, session: FakeSession
) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await confirmed(pilot, session)
        session.step(*STEPS, None)
        await until(pilot, lambda: screen.attempt.ended)
        await concluded(
            pilot,
            screen,
            Outcome.SWITCHED_OVER,
            "✔ Switched over",
            "Writes blocked for 1.24 s",
            "7 sequences",
            "pgmig-cli cleanup --id shop",
        )
        await pilot.press("enter")
        await pilot.pause()
        assert not isinstance(pilot.app.screen, SwitchoverScreen)


async def test_a_rollback_shows_its_reason_and_that_writes_continue(
    app: Dashboard, session: FakeSession
) -> None:
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await confirmed(pilot, session)
        rolled = SwitchoverStep(StepName.ROLLBACK, StepState.DONE, "", 30_040)
        session.step(
            *STEPS[:4], SwitchoverStep(StepName.DRAIN, StepState.FAILED, "", 30_000), rolled, TIMED_OUT
        )
        await concluded(
            pilot,
            screen,
            Outcome.ROLLED_BACK,
            "⚠ Rolled back",
            "the marker was not reached within 30s",
            "→ wait for a small lag",
            "The source accepts writes again",
        )
        await pilot.press("escape")
        await pilot.press("s")
        await pilot.pause()
        assert not dialog(pilot).started, "it can be tried again"


async def test_a_refusal_says_that_nothing_was_changed(app: Dashboard, session: FakeSession) -> None:
    session.failing = PgmigError(ErrorKind.WRONG_PHASE, "shop is in phase catchup", "wait until it streams")
    async with app.run_test() as pilot:
        screen = await confirmed(pilot, session)
        await concluded(pilot, screen, Outcome.REFUSED, "nothing was changed", "→ wait until it streams")


async def test_a_failed_rollback_is_said_loudly(app: Dashboard, session: FakeSession) -> None:
    async with app.run_test() as pilot:
        screen = await confirmed(pilot, session)
        session.step(
            *STEPS[:4], SwitchoverStep(StepName.ROLLBACK, StepState.FAILED, "source gone", 31_000), TIMED_OUT
        )
        await concluded(pilot, screen, Outcome.STUCK, "may still refuse writes")


async def test_a_broken_stream_is_not_an_outcome(app: Dashboard, session: FakeSession) -> None:
    async with app.run_test() as pilot:
        screen = await confirmed(pilot, session)
        session.step(*STEPS[:4], CUT_OFF)
        await concluded(pilot, screen, Outcome.UNKNOWN, "outcome not known yet", "connection reset by peer")
        session.send(replace(view(Phase.SWITCHED_OVER), switchover=STEPS[-1].result))
        await concluded(pilot, screen, Outcome.SWITCHED_OVER, "Writes blocked for 1.24 s")


async def test_a_rollback_that_happened_out_of_sight_is_found(app: Dashboard, session: FakeSession) -> None:
    async with app.run_test() as pilot:
        screen = await confirmed(pilot, session)
        session.step(*STEPS[:4], CUT_OFF)
        await concluded(pilot, screen, Outcome.UNKNOWN)
        session.send(replace(streaming(7), failure=Failure(ErrorKind.TIMEOUT, "212 MiB were left", "")))
        await concluded(pilot, screen, Outcome.ROLLED_BACK, "212 MiB were left")


@pytest.mark.parametrize("phase", [Phase.COPY, Phase.PAUSED, Phase.SWITCHED_OVER])
async def test_s_is_refused_where_a_switchover_cannot_be(phase: Phase) -> None:
    session = FakeSession(view(phase))
    async with dashboard(session).run_test() as pilot:
        await heard(pilot, phase)
        await pilot.press("s")
        await until(pilot, lambda: len(toasts(pilot)) == 1)
        assert f"phase {phase} cannot be switched over" in toasts(pilot)[0]
        assert not isinstance(pilot.app.screen, SwitchoverScreen)


async def test_s_before_anything_is_known_is_answered() -> None:
    async with dashboard(FakeSession()).run_test() as pilot:
        await pilot.press("s")
        await until(pilot, lambda: len(toasts(pilot)) == 1)


async def test_the_yes_is_withdrawn_when_the_migration_leaves_streaming(
    app: Dashboard, session: FakeSession
) -> None:
    async with app.run_test(size=(100, 30)) as pilot:
        screen = await asked(pilot)
        session.send(view(Phase.CATCHUP, 2))
        await heard(pilot, Phase.CATCHUP)
        await pilot.press("y")
        await pilot.pause()
        assert screen.query_one("#confirm", Button).disabled
        await reads(pilot, "Not now")
        assert session.calls == []


@pytest.mark.parametrize("size", [(20, 8), (40, 12), (60, 18)])
async def test_the_dialog_works_on_a_tiny_terminal(
    app: Dashboard, session: FakeSession, size: tuple[int, int]
) -> None:
    async with app.run_test(size=size) as pilot:
        screen = await confirmed(pilot, session)
        session.step(*STEPS, None)
        await concluded(pilot, screen, Outcome.SWITCHED_OVER)


async def test_c_cancels_until_it_is_decided(app: Dashboard, session: FakeSession) -> None:
    async with app.run_test(size=(80, 30)) as pilot:
        screen = await confirmed(pilot, session)
        session.step(*STEPS[:4])
        await until(pilot, lambda: len(screen.attempt.steps) == 3)
        await pilot.pause()
        await reads(pilot, "c cancels it")
        await pilot.press("c")
        await until(pilot, lambda: ("cancel", "op-1", 0.0) in session.calls)
        session.step(SwitchoverStep(StepName.ROLLBACK, StepState.DONE), OperationState.CANCELLED)
        await concluded(pilot, screen, Outcome.CANCELLED, "⚠ Cancelled", "The source accepts writes")


async def test_c_does_nothing_while_it_is_decided_or_undone(app: Dashboard, session: FakeSession) -> None:
    async with app.run_test(size=(80, 30)) as pilot:
        screen = await confirmed(pilot, session)
        session.step(SwitchoverStep(StepName.COMMIT, StepState.STARTED))
        await until(pilot, lambda: len(screen.attempt.steps) == 1)
        await pilot.press("c")
        session.step(STEPS[-1], None)
        await concluded(pilot, screen, Outcome.SWITCHED_OVER)
        assert [call[0] for call in session.calls] == ["switchover"]


async def test_s_attaches_to_the_switchover_that_runs() -> None:
    """Another client has requested it, and holds it."""
    options = SwitchoverOptions(60_000, hold=True)
    held = Operation("op-1", "shop", "other", options=options, state=OperationState.READY)
    session = FakeSession(replace(streaming(), operation=held))
    async with dashboard(session).run_test(size=(80, 30)) as pilot:
        screen = await asked(pilot)
        session.step(OperationState.READY)
        await until(pilot, lambda: screen.attempt.waits)
        await pilot.pause()
        await reads(pilot, "It waits for pgmig-cli switchover --proceed")
        assert session.calls == []
        session.step(OperationState.RUNNING, *STEPS, None)
        await concluded(pilot, screen, Outcome.SWITCHED_OVER)
