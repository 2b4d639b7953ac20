"""Hooks and poolers of a record: whose commands are run, what they are told, and which password a pooler's
console gets."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import cast

import pytest

from services.coordinator.migration.journal import Journal
from services.coordinator.migration.state import Migration
from services.coordinator.operations import handover, hooks, poolers
from services.coordinator.operations.hook_process import Ran
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.ends import PipelineEnds
from services.coordinator.pipeline.hook_settings import HookSettings, KnownPoolers
from services.coordinator.pipeline.parts import Context
from services.shared.model import (
    Endpoint,
    ErrorKind,
    HookName,
    Operation,
    OperationState,
    Parameter,
    PgmigError,
    Phase,
    SwitchoverOptions,
)
from services.shared.model.view.certificate import StoredCertificate
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


TWO = (Parameter("host", "first,second"), Parameter("port", "1,2"))
ENDS = Endpoint("first", 1, "shop", "a", parameters=TWO), Endpoint("alone", 3, "shop", "a")


class Placed(Stand):
    """A migration whose source has two servers. known: its connection strings."""

    def __init__(
        self, known: Credentials, phase: Phase, certificates: tuple[StoredCertificate, ...] = ()
    ) -> None:
        super().__init__(phase, Operation("o", "m", "r"))
        record = replace(
            self.migration.record, source=ENDS[0], destination=ENDS[1], certificates=certificates
        )
        self.migration = Migration(record, lambda _: ())
        self.context = Context(
            self.migration,
            self.migration.active,
            cast(Journal, self),
            cast(PipelineEnds, self),
            HookSettings(dict.fromkeys(HookName, "true")),
        )
        self.known = known

    async def find_primaries(self, *, again: bool = True) -> bool:
        assert not again
        raise PgmigError(ErrorKind.UNREACHABLE, "no primary")

    async def told(self, monkeypatch: pytest.MonkeyPatch) -> tuple[str, int, str]:
        """Host and port of the source and host of the destination, as a hook gets them."""
        seen: list[tuple[str, int, str]] = []

        async def run(_: list[str], facts: dict[str, str], stdin: bytes, _limit: float) -> Ran:
            source, destination = (json.loads(stdin)[side] for side in ("source", "destination"))
            assert facts["PGMIG_SOURCE_HOST"] == source["host"]
            assert facts["PGMIG_SOURCE_PORT"] == str(source["port"])
            seen.append((source["host"], source["port"], destination["host"]))
            return Ran("")

        monkeypatch.setattr(hooks, "run_command", run)
        assert await hooks.run_hook(self.context, self.operation, HookName.AFTER_DECISION) == ""
        (found,) = seen
        return found


async def test_hook_is_told_the_server_that_is_the_primary(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Credentials("host=second port=2 dbname=shop user=a", "host=alone port=3 dbname=shop user=a")
    assert await Placed(found, Phase.STREAMING).told(monkeypatch) == ("second", 2, "alone")


async def test_hook_of_a_restarted_coordinator_is_told_the_server_that_was_switched_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    document = json.dumps({"source": {"host": "second", "port": 2}, "destination": {"host": "x", "port": 9}})
    certificates = (StoredCertificate("o", document),)
    given = "host=first,second port=1,2 dbname=shop user=a"
    for known in (Credentials(), Credentials(given, "")):
        decided = Placed(known, Phase.SWITCHED_OVER, certificates)
        assert await decided.told(monkeypatch) == ("second", 2, "alone")
        undone = Placed(known, Phase.STREAMING, certificates)  # nothing better is known
        assert await undone.told(monkeypatch) == ("first", 1, "alone")
