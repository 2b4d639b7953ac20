"""Hooks of a switchover: what they are told, what their failure does, and who may give them."""

from __future__ import annotations

import json
import shlex
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, suppress
from pathlib import Path

import psycopg
import pytest

from clients.session import Session
from services.shared.model import (
    DryRunResult,
    DryRunStep,
    DryRunStepName,
    ErrorKind,
    MigrationOptions,
    Operation,
    OperationState,
    PgmigError,
    Phase,
    StepName,
    StepState,
    SwitchoverOptions,
)
from tests.support.servers.nats import NatsServer
from tests.support.services.services import Services, until_phase

FOLLOW = MigrationOptions(follow=True)


@pytest.fixture
def services(nats_server: NatsServer, tmp_path: Path) -> Iterator[Services]:
    with Services(nats_server, tmp_path, PGMIG_ALLOW_HOOKS="1", PGPASSWORD="of-somebody") as running:
        yield running


@pytest.fixture
async def session(services: Services, source: str, dest_db: str) -> AsyncIterator[Session]:
    """With migration m, which streams."""
    async with services.session() as session:
        await session.start("m", source, dest_db, FOLLOW)
        await until_phase(session, "m", Phase.STREAMING)
        yield session


def shell(script: str, *arguments: object) -> str:
    return shlex.join(["sh", "-c", script, "sh", *map(str, arguments)])


def noting(path: Path) -> str:
    """A hook that adds its name to a file."""
    return shell('echo "$PGMIG_HOOK" >> "$1"', path)


async def ended(session: Session, options: SwitchoverOptions) -> Operation:
    operation = await session.begin_switchover("m", options, "the request")
    async with aclosing(session.follow_operation(operation.operation_id, reached=True)) as states:
        return [state async for state in states][-1]


async def events(session: Session) -> list[str]:
    return [event.text for event in (await session.get("m")).events]


def writable(uri: str) -> None:
    with psycopg.connect(uri) as conn:
        conn.execute("INSERT INTO item VALUES (1)")


async def test_hooks_get_facts_and_no_secrets_and_run_once_around_the_decision(
    session: Session, source: str, dest_db: str, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    asked = shell('env | grep -a PG >> "$1"; echo >> "$1"; cat >> "$1"', told)
    options = SwitchoverOptions(hook_before_freeze=asked, hook_after_decision=shell("cat; exit 0"))
    operation = await ended(session, options)
    assert operation.state is OperationState.SUCCEEDED
    names = [step.name for step in operation.steps if step.state is StepState.DONE]
    assert (names[0], names[-2]) == (StepName.HOOK_BEFORE_FREEZE, StepName.HOOK_AFTER_DECISION)
    variables, facts = told.read_text().split("\n\n")
    assert f"PGMIG_OPERATION_ID={operation.operation_id}" in variables
    assert "PGMIG_DEST_DBNAME=" in variables
    read = json.loads(facts)
    assert (read["version"], read["migration_id"], read["operation"]["state"]) == (1, "m", "preparing")
    secrets = [psycopg.conninfo.conninfo_to_dict(uri)["password"] for uri in (source, dest_db)]
    for secret in ("of-somebody", "PGMIG_WORKER_TOKEN", "PGMIG_NATS_URL", *secrets):
        assert str(secret) not in told.read_text()


async def test_failing_hook_before_the_freeze_ends_the_switchover_with_its_reason(
    session: Session, source: str, tmp_path: Path
) -> None:
    after = tmp_path / "after"
    failing = shell("echo password=hush; echo the queue is not empty >&2; exit 3")
    options = SwitchoverOptions(hook_before_freeze=failing, hook_after_rollback=noting(after))
    with pytest.raises(PgmigError, match="seems to contain a password"):
        await ended(session, options)
    failing = shell("echo pass''word=hush; echo the queue is not empty >&2; exit 3")
    options = SwitchoverOptions(hook_before_freeze=failing, hook_after_rollback=noting(after))
    operation = await ended(session, options)
    assert operation.state is OperationState.FAILED
    assert operation.failure is not None
    assert "exit code 3: the queue is not empty" in operation.failure.message
    assert [step.name for step in operation.steps if step.name is StepName.FREEZE] == []
    assert after.read_text() == "after-rollback\n"
    lines = await events(session)
    assert "hook before-freeze: password=***" in lines
    assert not any("hush" in line for line in lines if not line.startswith("hook before-freeze is run"))
    writable(source)


async def test_hook_and_its_children_are_killed_when_its_time_is_over(
    session: Session, source: str, tmp_path: Path
) -> None:
    child = tmp_path / "child"
    waiting = shell("trap '' TERM; sleep 600 & echo $! > \"$1\"; wait; wait", child)
    operation = await ended(session, SwitchoverOptions(hook_before_freeze=waiting, hook_timeout_ms=500))
    assert operation.state is OperationState.FAILED
    assert operation.failure is not None
    assert "did not end within 0.5 s" in operation.failure.message
    assert not alive(int(child.read_text()))
    writable(source)


def alive(pid: int) -> bool:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def test_switchover_that_is_cancelled_in_its_hook_kills_it_and_runs_the_one_after(
    session: Session, source: str, tmp_path: Path
) -> None:
    child, after = tmp_path / "child", tmp_path / "after"
    waiting = shell('sleep 600 & echo $! > "$1.new"; mv "$1.new" "$1"; wait', child)
    options = SwitchoverOptions(hook_before_freeze=waiting, hook_after_rollback=noting(after))
    operation = await session.begin_switchover("m", options)
    async with aclosing(session.follow_operation(operation.operation_id, reached=True)) as states:
        async for seen in states:
            if seen.steps and not seen.cancel_requested:
                while not child.exists():
                    await session.get("m")
                await session.cancel_operation(operation.operation_id)
    assert seen.state is OperationState.CANCELLED
    assert after.read_text() == "after-rollback\n"
    assert not alive(int(child.read_text()))
    writable(source)


async def test_failing_hook_after_the_decision_is_a_warning_of_the_result(session: Session) -> None:
    options = SwitchoverOptions(hook_after_decision=shell("echo no route; exit 1"))
    operation = await ended(session, options)
    assert operation.state is OperationState.SUCCEEDED
    assert operation.result is not None
    assert operation.result.warnings == ("hook after-decision failed: it ended with exit code 1: no route",)
    assert (await session.get("m")).phase is Phase.SWITCHED_OVER


RAN = {
    "hook-before-freeze.begin": ["after-rollback"],
    "hook-before-freeze.end": ["before-freeze", "after-rollback"],
    "drain.begin": ["before-freeze", "after-rollback"],
    "decided": ["before-freeze", "after-decision"],
    "hook-after-decision.end": ["before-freeze", "after-decision", "after-decision"],
}
"""The hooks that run, by where the coordinator is killed."""


@pytest.mark.parametrize("point", list(RAN))
@pytest.mark.usefixtures("session")
async def test_coordinator_killed_amid_hooks_runs_the_one_that_is_due(
    services: Services, stand: tuple[str, str], tmp_path: Path, point: str
) -> None:
    (source, dest), ran = stand, RAN[point]
    log = tmp_path / "ran"
    hook = noting(log)
    options = SwitchoverOptions(hook_before_freeze=hook, hook_after_decision=hook, hook_after_rollback=hook)
    services.restart_with(f"switchover.{point}=kill")
    async with services.session() as again:
        await again.resume("m", source, dest)
        await until_phase(again, "m", Phase.STREAMING)
        with suppress(PgmigError):
            await again.begin_switchover("m", options, "the request")
        services.await_death("coordinator")
    services.start("coordinator")
    async with services.session() as again:
        await again.resume("m", source, dest)
        operation = await ended(again, options)
        succeeded = ran[-1] == "after-decision"
        assert operation.state.ended
        assert (operation.state is OperationState.SUCCEEDED) == succeeded
        assert log.read_text().split() == ran
    if not succeeded:
        writable(source)


@pytest.fixture
def stand(source: str, dest_db: str) -> tuple[str, str]:
    return source, dest_db


async def test_dry_run_names_a_hook_that_cannot_be_executed_and_runs_none(
    session: Session, tmp_path: Path
) -> None:
    async def found(options: SwitchoverOptions) -> list[DryRunStep | DryRunResult]:
        return [one async for one in session.dry_run("m", options=options)]

    with pytest.raises(PgmigError, match="no such program") as caught:
        await found(SwitchoverOptions(hook_after_decision="/no/such/program"))
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT
    log = tmp_path / "ran"
    *steps, _ = await found(SwitchoverOptions(hook_before_freeze=noting(log)))
    (step,) = [s for s in steps if isinstance(s, DryRunStep) and s.name is DryRunStepName.HOOKS_POOLERS]
    assert step.state is StepState.DONE
    assert not log.exists()
    unreachable = SwitchoverOptions(pause_poolers=("postgresql://a:b@127.0.0.1:1/shop",))
    *steps, result = await found(unreachable)
    (step,) = [s for s in steps if isinstance(s, DryRunStep) and s.name is DryRunStepName.HOOKS_POOLERS]
    assert step.state is StepState.FAILED
    assert isinstance(result, DryRunResult)
    assert not result.can_switch


async def test_coordinator_that_others_reach_runs_only_the_hooks_of_its_settings(
    nats_server: NatsServer, source: str, dest_db: str, tmp_path: Path
) -> None:
    log, given = tmp_path / "ran", tmp_path / "given"
    settings = {"PGMIG_HOOK_AFTER_DECISION": noting(log)}
    with Services(nats_server, tmp_path, **settings) as services:
        async with services.session() as session:
            await session.start("m", source, dest_db, FOLLOW)
            await until_phase(session, "m", Phase.STREAMING)
            for hook in ("hook_before_freeze", "hook_after_decision", "hook_after_rollback"):
                options = SwitchoverOptions(**{hook: noting(given)})  # type: ignore[arg-type]
                with pytest.raises(PgmigError, match="does not run commands that clients give") as caught:
                    await session.begin_switchover("m", options)
                assert caught.value.kind is ErrorKind.INVALID_ARGUMENT
                assert await session.list_operations("m") == ()
            assert (await ended(session, SwitchoverOptions())).state is OperationState.SUCCEEDED
    assert not given.exists()
    assert log.read_text() == "after-decision\n"


async def test_coordinator_that_does_not_run_clients_hooks_refuses_those_of_the_record(
    services: Services, session: Session, stand: tuple[str, str], tmp_path: Path
) -> None:
    """The coordinator before has accepted them, or somebody has written the record."""
    log = tmp_path / "ran"
    options = SwitchoverOptions(
        hold=True,
        hook_before_freeze=noting(log),
        hook_after_decision=noting(log),
        hook_after_rollback=noting(log),
    )
    operation = await session.begin_switchover("m", options, "the request")
    async with aclosing(session.follow_operation(operation.operation_id)) as states:
        async for seen in states:
            if seen.state is OperationState.READY:
                break
    services.change(PGMIG_ALLOW_HOOKS="0")
    services.restart("coordinator")
    async with services.session() as again:
        await again.resume("m", *stand)
        operation = await ended(again, options)
    assert operation.state is OperationState.FAILED
    assert operation.failure is not None
    assert "does not run commands that clients give" in operation.failure.message
    assert [step.name for step in operation.steps if step.name is StepName.FREEZE] == []
    assert not log.exists()
    writable(stand[0])
