"""The control API over a real loopback connection: every call with its arguments and answer, and errors."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from services.shared.model import (
    ErrorKind,
    LagLimit,
    Lsn,
    MigrationId,
    MigrationOptions,
    MigrationView,
    PgmigError,
    SwitchoverOptions,
    TableId,
)
from services.shared.rpc.control_client import ControlClient
from services.shared.rpc.server import ControlServer
from tests.fakes.control_service import (
    CLEANED,
    CONFLICTS,
    DRY_RUN,
    NOT_READY,
    OPERATION,
    PLAN,
    SUCCEEDED,
    VIEW,
    FakeControl,
    NoWorkers,
    serving,
)
from tests.support.certificates import stored

URIS = ("postgresql://a", "postgresql://b")
HOOKED = SwitchoverOptions(pause_poolers=("host=h",), hook_after_decision="true", hook_timeout_ms=7)
LAG = LagLimit(1 << 40, 2.5)
GIVEN = {"source_uri": URIS[0], "destination_uri": URIS[1]}
TABLES = (TableId("shop", "orders"), TableId("Odd.", 'na"me'))


async def test_every_call_carries_its_arguments_and_answer() -> None:
    control = FakeControl()
    options = MigrationOptions(follow=True, copy_workers=3, index_workers=4, maintenance_work_mem_kb=5)
    control.more_steps.set()
    m1 = MigrationId("m1")
    async with serving(control) as (_server, client):
        assert await client.start(m1, "postgresql://a", "postgresql://b", options) == VIEW
        assert await client.plan(m1, "postgresql://a", "postgresql://b", options) == PLAN
        assert await client.get("m1") == VIEW
        assert await client.list_all() == (VIEW, replace(VIEW, migration_id="m2"))
        assert await client.pause(m1) == VIEW
        assert await client.resume(m1) == VIEW
        assert await client.resume(m1, "postgresql://a", "postgresql://b") == VIEW
        assert await client.resume(m1, None, None, ("view app.v",)) == VIEW
        assert await client.skip_transaction("m1", Lsn(2**64 - 1), "broken", "a@b") == VIEW
        assert await client.skip_transaction("m1", Lsn(1), "broken", "a@b", **GIVEN) == VIEW
        assert await client.resync_tables(m1, TABLES) == VIEW
        assert await client.resync_tables(m1, TABLES, *URIS) == VIEW
        assert await client.switchover(m1, "r", SwitchoverOptions(2500, hold=True, max_lag=LAG)) == OPERATION
        assert await client.switchover(m1, "r", SwitchoverOptions()) == OPERATION
        assert await client.get_operation("8f3a") == OPERATION
        assert await client.list_operations(m1) == (SUCCEEDED, OPERATION)
        assert await client.list_conflicts(m1, 7) == CONFLICTS
        assert await client.cancel_operation("8f3a") == OPERATION
        assert await client.proceed_operation("8f3a") == OPERATION
        assert await client.certificate(m1, "8f3a") == stored()
        assert await client.readiness(m1, LagLimit(bytes=1 << 40)) == NOT_READY
        assert tuple([one async for one in client.dry_run(m1, LagLimit(seconds=2.5), HOOKED)]) == DRY_RUN
        assert await client.unfreeze(m1, True) == VIEW
        assert await client.unfreeze(m1, False, *URIS) == VIEW
        assert await client.abort(m1) == VIEW
        assert await client.abort(m1, "postgresql://a", "postgresql://b") == VIEW
        assert await client.cleanup(m1, force=True) == CLEANED
        assert await client.cleanup(m1, False, "postgresql://a", "postgresql://b") == CLEANED
    assert control.calls == [
        ("start", m1, "postgresql://a", "postgresql://b", options),
        ("plan", m1, "postgresql://a", "postgresql://b", options),
        ("get", m1),
        ("list_all",),
        ("pause", m1),
        ("resume", m1, None, None),
        ("resume", m1, "postgresql://a", "postgresql://b"),
        ("resume", m1, None, None, "view app.v"),
        ("skip_transaction", m1, Lsn(2**64 - 1), "broken", "a@b", None, None),
        ("skip_transaction", m1, Lsn(1), "broken", "a@b", *URIS),
        ("resync_tables", m1, TABLES, None, None),
        ("resync_tables", m1, TABLES, *URIS),
        ("switchover", m1, "r", SwitchoverOptions(2500, hold=True, max_lag=LAG)),
        ("switchover", m1, "r", SwitchoverOptions(30_000)),
        ("get_operation", "8f3a"),
        ("list_operations", m1),
        ("list_conflicts", m1, 7),
        ("cancel_operation", "8f3a"),
        ("proceed_operation", "8f3a"),
        ("certificate", m1, "8f3a"),
        ("readiness", m1, LagLimit(bytes=1 << 40)),
        ("dry_run", m1, LagLimit(seconds=2.5), HOOKED),
        ("unfreeze", m1, True, None, None),
        ("unfreeze", m1, False, *URIS),
        ("abort", m1, None, None),
        ("abort", m1, "postgresql://a", "postgresql://b"),
        ("cleanup", m1, True, None, None),
        ("cleanup", m1, False, "postgresql://a", "postgresql://b"),
    ]


async def test_an_error_arrives_with_kind_message_hint_and_lsn() -> None:
    control = FakeControl(error=PgmigError(ErrorKind.GAP, "slot is beyond progress", "clone again", Lsn(255)))
    async with serving(control) as (_server, client):
        with pytest.raises(PgmigError) as caught:
            await client.get("m1")
    assert caught.value.kind is ErrorKind.GAP
    assert caught.value.message == "slot is beyond progress"
    assert caught.value.hint == "clone again"
    assert caught.value.lsn == Lsn(255)


async def test_an_error_ends_a_stream_with_its_kind() -> None:
    control = FakeControl(error=PgmigError(ErrorKind.WRONG_PHASE, "m1 is paused"))
    async with serving(control) as (_server, client):
        with pytest.raises(PgmigError, match="m1 is paused"):
            await anext(client.watch("m1"))
        with pytest.raises(PgmigError, match="m1 is paused"):
            await anext(client.watch_operation("8f3a"))


async def test_an_error_with_very_long_text_still_arrives() -> None:
    control = FakeControl(error=PgmigError(ErrorKind.SCHEMA_FAILED, "ä" * 100_000, "ö" * 100_000))
    async with serving(control) as (_server, client):
        with pytest.raises(PgmigError) as caught:
            await client.get("m1")
    assert caught.value.kind is ErrorKind.SCHEMA_FAILED
    assert caught.value.message.startswith("äää")


async def test_an_unexpected_exception_is_logged_and_its_text_kept_from_the_client(
    caplog: pytest.LogCaptureFixture,
) -> None:
    control = FakeControl(error=ValueError("row value 4711"))
    async with serving(control) as (_server, client):
        with pytest.raises(PgmigError) as caught:
            await client.get("m1")
    assert caught.value.kind is ErrorKind.INTERNAL
    assert "4711" not in str(caught.value) + caught.value.hint
    assert "4711" in caplog.text


async def test_an_invalid_id_is_refused_before_the_handler_sees_it() -> None:
    control = FakeControl()
    async with serving(control) as (_server, client):
        with pytest.raises(PgmigError) as caught:
            await client.get("No; DROP")
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT
    assert control.calls == []


async def test_no_coordinator_is_unreachable_and_named(unused_address: str) -> None:
    async with ControlClient(unused_address) as client:
        with pytest.raises(PgmigError) as caught:
            await client.list_all()
    assert caught.value.kind is ErrorKind.UNREACHABLE
    assert f"cannot reach the coordinator at {unused_address}" in caught.value.message


async def test_a_missing_answer_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(FakeControl):
        async def get(self, migration_id: MigrationId) -> MigrationView:
            await asyncio.Event().wait()
            return VIEW

    monkeypatch.setattr("services.shared.rpc.control_client.DEADLINE_S", 0.1)
    async with serving(Hanging()) as (_server, client):
        with pytest.raises(PgmigError) as caught:
            await client.get("m1")
    assert caught.value.kind is ErrorKind.TIMEOUT


async def test_another_server_on_the_port_is_a_clear_error() -> None:
    first = ControlServer("127.0.0.1:0", FakeControl(), NoWorkers())
    address = await first.start()
    second = ControlServer(address, FakeControl(), NoWorkers())
    try:
        with pytest.raises(PgmigError, match=f"cannot listen on {address}"):
            await second.start()
    finally:
        await first.stop(0)
        await second.stop(0)


@pytest.fixture
def unused_address() -> str:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
