"""Which poolers are resumed after the decision, also by a coordinator that is started after a crash."""

from __future__ import annotations

import pytest

from services.coordinator.migration.record import Record
from services.coordinator.migration.state import Migration
from services.coordinator.operations import handover, hooks
from services.coordinator.operations.hook_process import Ran
from services.coordinator.operations.steps import StepFeed
from services.coordinator.pipeline.hook_settings import HookSettings
from services.coordinator.pipeline.parts import Context
from services.shared.model import (
    ErrorKind,
    FreezeMode,
    HookName,
    Operation,
    OperationState,
    PgmigError,
    Phase,
    SwitchoverOptions,
)
from services.shared.pg.pooler import console
from tests.fakes.switching import Stand

POOLER = "postgresql://admin@pooler:6432/shop"
LED = SwitchoverOptions(freeze=FreezeMode.NONE, pause_poolers=(POOLER,), hook_after_decision="true lead")
CLOSED = SwitchoverOptions(pause_poolers=(POOLER,))


class Decided(Stand):
    """A switchover that is decided, with a paused pooler. records: as they were saved. resumed: poolers."""

    def __init__(self, options: SwitchoverOptions, settings: HookSettings | None = None) -> None:
        operation = Operation("o", "m", "r", options=options, state=OperationState.RUNNING)
        super().__init__(Phase.SWITCHED_OVER, operation)
        self.settings(settings or HookSettings(from_clients=True))
        expected = hooks.expected_after_decision(self.context, options)
        self.migration.handover.pausing("o", (POOLER,), hook_expected=expected)
        self.records: list[Record] = []
        self.resumed: list[str] = []

    def settings(self, settings: HookSettings) -> None:
        known = self.context
        self.context = Context(known.migration, known.pipeline, known.journal, known.credentials, settings)

    async def save(self, *, strict: bool = False) -> None:
        self.records.append(self.migration.record)

    async def check_ours(self) -> None:
        pass

    async def resume(self, uri: str) -> bool:
        self.resumed.append(uri)
        return True

    def restarted_with(self, record: Record) -> None:
        """Another coordinator, which finds this record."""
        self.migration = Migration(record, lambda _: ())
        known = self.context
        pipeline = self.migration.active
        self.context = Context(self.migration, pipeline, known.journal, known.credentials, known.hooks)

    async def conclude(self) -> tuple[str, ...]:
        return await handover.conclude(self.context, StepFeed(self.migration, "o"))


def use(stand: Decided, monkeypatch: pytest.MonkeyPatch, *, outcome: Ran | Exception) -> None:
    async def run(*_: object) -> Ran:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(hooks, "run_command", run)
    monkeypatch.setattr(console, "resume", stand.resume)


@pytest.mark.parametrize(
    "outcome", [Ran("it ended with exit code 1"), ValueError("embedded null byte")], ids=["fails", "breaks"]
)
async def test_no_coordinator_resumes_a_pooler_after_a_hook_that_failed(
    monkeypatch: pytest.MonkeyPatch, outcome: Ran | Exception
) -> None:
    stand = Decided(LED)
    use(stand, monkeypatch, outcome=outcome)
    failed, left = await stand.conclude()
    assert failed.startswith("hook after-decision failed: ")
    assert "stays paused" in left
    assert stand.resumed == []
    stand.migration.operations.ended("o", OperationState.SUCCEEDED)
    for record in [*stand.records, stand.migration.record]:
        stand.restarted_with(record)
        await stand.conclude()
        assert stand.resumed == []


async def test_next_coordinator_resumes_a_pooler_after_a_hook_that_succeeded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand = Decided(LED)
    use(stand, monkeypatch, outcome=Ran(""))
    assert await stand.conclude() == ()
    assert stand.resumed == [POOLER]
    stand.restarted_with(stand.records[0])  # killed before RESUME
    use(stand, monkeypatch, outcome=Ran("it is not run again"))
    assert await stand.conclude() == ()
    assert stand.resumed == [POOLER] * 2


async def test_pooler_stays_paused_if_the_operation_has_ended_without_its_hook(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand = Decided(LED)
    use(stand, monkeypatch, outcome=Ran(""))
    stand.migration.operations.ended("o", OperationState.SUCCEEDED)
    (left,) = await stand.conclude()
    assert "stays paused" in left
    assert stand.resumed == []


async def test_pooler_stays_paused_if_the_next_coordinator_has_no_hook_in_its_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand = Decided(CLOSED, HookSettings({HookName.AFTER_DECISION: "true lead"}))
    use(stand, monkeypatch, outcome=Ran(""))
    stand.settings(HookSettings())
    (left,) = await stand.conclude()
    assert "stays paused" in left
    assert stand.resumed == []


async def test_pooler_without_a_hook_is_resumed_only_if_the_source_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stand = Decided(CLOSED)
    use(stand, monkeypatch, outcome=Ran(""))
    assert await stand.conclude() == ()
    assert stand.resumed == [POOLER]
    stand = Decided(SwitchoverOptions(freeze=FreezeMode.NONE, pause_poolers=(POOLER,)))
    use(stand, monkeypatch, outcome=Ran(""))
    (left,) = await stand.conclude()
    assert "stays paused" in left
    assert stand.resumed == []


def test_pooler_that_no_hook_leads_is_refused_if_the_source_stays_open() -> None:
    options = SwitchoverOptions(freeze=FreezeMode.NONE, pause_poolers=(POOLER,))
    stand = Stand()
    with pytest.raises(PgmigError, match="no hook after the decision leads the paused poolers") as caught:
        handover.check_accepted(stand.context, handover.recorded(options))
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT
