"""Hooks and poolers of a record: whose commands are run, and which password a pooler's console gets."""

from __future__ import annotations

import pytest

from services.coordinator.operations import handover, hooks, poolers
from services.coordinator.operations.hook_process import Ran
from services.coordinator.pipeline.hook_settings import HookSettings, KnownPoolers
from services.coordinator.pipeline.parts import Context
from services.shared.model import (
    ErrorKind,
    HookName,
    Operation,
    OperationState,
    PgmigError,
    SwitchoverOptions,
)
from services.shared.pg.pooler import console
from tests.fakes.switching import Stand

POOLER = "postgresql://admin:right@pooler:6432/shop"
WRONG = "postgresql://admin:wrong@pooler:6432/shop"
BARE = console.without_password(POOLER)
OF_A_CLIENT = SwitchoverOptions(hook_before_freeze="true", hook_after_decision="true")
NOT_HERE = "does not run commands that clients give"


def with_settings(stand: Stand, settings: HookSettings) -> Context:
    known = stand.context
    return Context(known.migration, known.pipeline, known.journal, known.credentials, settings)


async def test_switchover_with_a_clients_hook_does_not_begin_where_such_hooks_are_refused() -> None:
    """The record is of a coordinator that accepted it, or somebody has written it."""
    context = with_settings(Stand(), HookSettings({HookName.BEFORE_FREEZE: "true"}))
    with pytest.raises(PgmigError, match=NOT_HERE) as caught:
        await handover.check(context, OF_A_CLIENT)
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT
    assert "PGMIG_ALLOW_HOOKS=1" in caught.value.hint
    allowed = with_settings(Stand(), HookSettings(from_clients=True))
    assert await handover.check(allowed, OF_A_CLIENT) != ""


@pytest.mark.parametrize("name", [HookName.BEFORE_FREEZE, HookName.AFTER_DECISION, HookName.AFTER_ROLLBACK])
async def test_hook_of_a_client_is_not_run_where_such_hooks_are_refused(
    monkeypatch: pytest.MonkeyPatch, name: HookName
) -> None:
    """Also not the one of the settings in its place: the operation was requested with another."""
    ran: list[object] = []

    async def run(words: list[str], *_: object) -> Ran:
        ran.append(words)
        return Ran("")

    monkeypatch.setattr(hooks, "run_command", run)
    options = SwitchoverOptions(
        hook_before_freeze="true", hook_after_decision="true", hook_after_rollback="true"
    )
    operation = Operation("o", "m", "r", options=options)
    settings = HookSettings({name: "true of-the-settings"})
    assert NOT_HERE in await hooks.run_hook(
        with_settings(Stand(operation=operation), settings), operation, name
    )
    assert ran == []
    own = Operation("o", "m", "r")
    assert await hooks.run_hook(with_settings(Stand(operation=own), settings), own, name) == ""
    assert ran == [["true", "of-the-settings"]]


async def test_refused_request_does_not_replace_a_poolers_password(stand: Stand) -> None:
    first = await stand.switching.begin("r", SwitchoverOptions(hold=True, pause_poolers=(POOLER,)))
    assert stand.context.poolers.uri(BARE) == POOLER
    for request, options in (
        ("r", SwitchoverOptions(pause_poolers=(WRONG,))),  # the same request id with other options
        ("other", SwitchoverOptions(pause_poolers=(WRONG,))),  # another switchover runs
        ("third", SwitchoverOptions(pause_poolers=(WRONG,), hook_before_freeze="true")),
    ):
        with pytest.raises(PgmigError):
            await stand.switching.begin(request, options)
        assert stand.context.poolers.uri(BARE) == POOLER
        assert stand.context.poolers.last_given(BARE) == POOLER
    assert first.options.pause_poolers == (BARE,)


async def test_request_that_could_not_be_stored_does_not_replace_a_poolers_password(stand: Stand) -> None:
    stand.refusal = PgmigError(ErrorKind.BROKER, "no answer")
    with pytest.raises(PgmigError, match="no answer"):
        await stand.switching.begin("r", SwitchoverOptions(pause_poolers=(WRONG,)))
    assert stand.context.poolers.last_given(BARE) == BARE
    assert stand.operation.state is OperationState.FAILED


async def test_password_that_the_console_refuses_does_not_replace_one_that_it_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pooler may still be paused by an earlier operation, and RESUME needs the right one."""
    tried: list[str] = []

    async def check(uri: str) -> None:
        tried.append(uri)
        if uri == WRONG:
            raise PgmigError(ErrorKind.AUTHENTICATION, "refused")

    monkeypatch.setattr(console, "check", check)
    context = Stand().context
    context.poolers.give([POOLER])
    await poolers.check(context, (BARE,))
    context.poolers.give([WRONG])
    with pytest.raises(PgmigError, match="refused"):
        await poolers.check(context, (BARE,))
    assert tried == [POOLER, WRONG]
    assert context.poolers.uri(BARE) == POOLER


def test_pooler_without_a_password_keeps_the_one_that_is_known() -> None:
    known = KnownPoolers(HookSettings(pooler_uris=(POOLER.replace("shop", "pgbouncer"),)))
    known.give([BARE])
    assert "password=right" in known.uri(BARE)
    known.give([WRONG])
    known.give([BARE])
    assert known.last_given(BARE) == WRONG


def test_what_a_dry_run_is_given_is_not_remembered() -> None:
    known = KnownPoolers(HookSettings())
    known.give([POOLER])
    assert known.with_given([WRONG]).last_given(BARE) == WRONG
    assert known.last_given(BARE) == POOLER


def test_pooler_with_several_hosts_is_refused() -> None:
    """PAUSE could reach another one than RESUME."""
    with pytest.raises(PgmigError, match="several hosts") as caught:
        handover.recorded(SwitchoverOptions(pause_poolers=("postgresql://a:hush@one:1,other:2/shop",)))
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT
    assert "hush" not in str(caught.value)
