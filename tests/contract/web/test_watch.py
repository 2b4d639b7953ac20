"""The WebSocket of a migration: a snapshot, then changes; resuming; slow readers; lost coordinators."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from clients.web.feeds import Feed, Heard
from clients.web.limits import DEFAULT_LIMITS
from services.shared.model import Event, EventLevel, Phase, TableId, TableProgress, TableState
from services.shared.model.view.jsonview import to_json
from services.shared.rpc.server import ControlServer
from tests.fakes.control import NoWorkers
from tests.support.web.served import Served, received, served
from tests.support.web.stalled import LARGE, WATCH, served_connections, stalled

QUICK = replace(DEFAULT_LIMITS, change_s=0.01)


def table(name: str, copied: int = 0) -> TableProgress:
    return TableProgress(TableId("app", name), TableState.COPYING, bytes_copied=copied)


async def closed(connection: Any) -> tuple[int, str]:
    """Code and reason, after all messages."""
    with pytest.raises(ConnectionClosed):
        while True:
            await connection.recv()
    return connection.close_code, connection.close_reason


async def test_a_snapshot_comes_at_once_and_is_what_get_returns(web: Served) -> None:
    web.put(tables=(table("a"),), events=(Event(1.0, EventLevel.INFO, "begun", 1),))
    async with web.watch() as watching:
        first = await received(watching)
    document = await web.get("/m")
    assert first["type"] == "snapshot"
    assert first["problem"] is None
    assert {**first["migration"], "as_of": 0} == {**document, "as_of": 0}


async def test_a_change_has_only_what_has_changed(web: Served) -> None:
    view = web.put(tables=(table("a"), table("b")), events=(Event(1.0, EventLevel.INFO, "begun", 1),))
    async with web.watch() as watching:
        first = await received(watching)
        more = Event(2.0, EventLevel.INFO, "more", 2)
        web.control.put(replace(view, tables=(table("a"), table("b", 7)), events=(*view.events, more)))
        change = await received(watching)
    assert change["type"] == "change"
    assert (change["epoch"], change["sequence"]) == (first["epoch"], first["sequence"] + 1)
    found = change["migration"]
    assert found.pop("as_of") >= first["migration"]["as_of"]
    assert found == {
        "live": True,
        "revision": 2,
        "tables": [to_json(table("b", 7))],
        "events": [to_json(more)],
    }


async def test_there_is_at_most_one_change_in_half_a_second(web: Served) -> None:
    """However many views there are, and none of them is lost."""
    view = web.put(tables=tuple(table(str(n)) for n in range(50)))
    async with web.watch() as watching:
        await received(watching)
        began, messages = time.monotonic(), 0
        for number in range(50):
            tables = tuple(table(str(n), 1 if n <= number else 0) for n in range(50))
            view = web.control.put(replace(view, tables=tables))
            await web.get("/m")  # meanwhile the view arrives
        seen: set[str] = set()
        while len(seen) < 50:
            messages += 1
            changed = (await received(watching))["migration"].get("tables", [])
            seen |= {one["table"]["name"] for one in changed}
        assert messages <= (time.monotonic() - began) / DEFAULT_LIMITS.change_s + 2


async def test_a_client_resumes_at_its_last_number(tmp_path: Path) -> None:
    async with served(tmp_path, QUICK) as web:
        view = web.put(tables=(table("a"), table("b")))
        async with web.watch() as watching:
            first = await received(watching)
        async with web.watch() as other:  # others go on
            await received(other)
            web.control.put(replace(view, tables=(table("a", 7), table("b"))))
            await received(other)
        async with web.watch(query=f"?epoch={first['epoch']}&after={first['sequence']}") as again:
            change = await received(again)
            assert change["type"] == "change"
            assert change["migration"]["tables"] == [to_json(table("a", 7))]
            web.control.move("m", Phase.PAUSED)
            assert (await received(again))["migration"]["phase"] == "paused"


async def test_a_client_that_has_everything_gets_the_next_change(tmp_path: Path) -> None:
    async with served(tmp_path, QUICK) as web:
        web.put()
        async with web.watch() as watching:
            first = await received(watching)
        async with web.watch(query=f"?epoch={first['epoch']}&after={first['sequence']}") as again:
            web.control.move("m", Phase.PAUSED)
            assert (await received(again))["migration"]["phase"] == "paused"


@pytest.mark.parametrize("query", ["?epoch=another&after=1", "?epoch={epoch}&after=999", "?after=1"])
async def test_a_number_that_means_nothing_here_gets_a_snapshot(web: Served, query: str) -> None:
    web.put()
    async with web.watch() as watching:
        first = await received(watching)
        async with web.watch(query=query.format(epoch=first["epoch"])) as again:
            assert (await received(again))["type"] == "snapshot"


async def test_a_removed_table_needs_a_snapshot(tmp_path: Path) -> None:
    async with served(tmp_path, QUICK) as web:
        view = web.put(tables=(table("a"), table("b")))
        async with web.watch() as watching:
            await received(watching)
            web.control.put(replace(view, tables=(table("b"),)))
            found = await received(watching)
    assert found["type"] == "snapshot"
    assert found["migration"]["tables"] == [to_json(table("b"))]


async def test_the_coordinator_is_watched_once_for_all_clients(web: Served) -> None:
    web.put()
    async with web.watch() as one, web.watch() as two:
        assert (await received(one))["epoch"] == (await received(two))["epoch"]
    assert web.control.calls.count(("watch", "m")) == 1


async def test_the_end_of_a_migration_closes_with_a_reason(web: Served) -> None:
    web.put()
    async with web.watch() as watching:
        await received(watching)
        web.control.remove("m")
        assert await closed(watching) == (4410, "the migration was cleaned up")


async def test_the_last_state_comes_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the next change would be due later."""
    arrived, hear = asyncio.Event(), Feed._hear

    def noticed(feed: Feed, heard: Heard) -> None:
        hear(feed, heard)
        if heard.view.phase is Phase.SWITCHED_OVER:
            arrived.set()

    monkeypatch.setattr(Feed, "_hear", noticed)
    async with served(tmp_path, replace(DEFAULT_LIMITS, change_s=3600.0)) as web:
        web.put()
        async with web.watch() as watching:
            await received(watching)
            web.control.move("m", Phase.SWITCHED_OVER)
            await arrived.wait()
            web.control.remove("m")
            assert (await received(watching))["migration"]["phase"] == "switched-over"
            assert (await closed(watching))[0] == 4410


async def test_a_defect_closes_with_its_code_and_is_logged(
    web: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> bool:
        raise RuntimeError("broken")

    web.put()
    monkeypatch.setattr("clients.web.changes.Changes.add", broken)
    async with web.watch() as watching:
        assert (await closed(watching))[0] == 1011
    assert "RuntimeError: broken" in capsys.readouterr().err


async def test_an_unknown_migration_closes_with_a_reason(web: Served) -> None:
    async with web.watch("nope") as watching:
        assert await closed(watching) == (4404, "there is no migration nope")


async def test_an_unreachable_coordinator_closes_with_a_reason(web: Served) -> None:
    await web.coordinator.stop(0)
    async with web.watch() as watching:
        code, reason = await closed(watching)
    assert code == 4503
    assert "cannot reach the coordinator" in reason


async def test_a_lost_coordinator_is_a_problem_until_it_is_back(web: Served) -> None:
    web.put()
    address = (await web.get("/m/configuration"))["coordinator"]
    async with web.watch() as watching:
        await received(watching)
        await web.coordinator.stop(0)
        lost = await received(watching)
        assert lost["problem"]["kind"] == "UNREACHABLE"
        assert lost["migration"]["live"] is False
        again = ControlServer(address, web.control, NoWorkers())
        await again.start()
        try:
            found = await received(watching)
            assert (found["problem"], found["migration"]["live"]) == (None, True)
        finally:
            await again.stop(0)


async def test_a_client_that_sends_something_is_closed(web: Served) -> None:
    web.put()
    async with web.watch() as watching:
        await received(watching)
        await watching.send("hello")
        assert (await closed(watching))[0] == 1008
    async with web.watch() as watching:
        await received(watching)
        await watching.send("x" * 100_000)
        assert (await closed(watching))[0] == 1009


async def test_no_more_clients_than_allowed_are_connected(tmp_path: Path) -> None:
    async with served(tmp_path, replace(DEFAULT_LIMITS, sockets=1)) as web:
        web.put()
        async with web.watch() as watching:
            await received(watching)
            with pytest.raises(InvalidStatus) as refused:
                async with web.watch():
                    pass
            assert refused.value.response.status_code == 503
            assert json.loads(refused.value.response.body)["kind"] == "BUSY"


async def test_a_client_may_wait_for_a_change_longer_than_for_a_request(tmp_path: Path) -> None:
    async with served(tmp_path, replace(QUICK, arrival_s=0.2)) as web:
        web.put()
        async with web.watch() as watching:
            await received(watching)
            reader, writer = await asyncio.open_connection("127.0.0.1", int(web.url.rpartition(":")[2]))
            async with asyncio.timeout(60):
                await reader.read()  # until it is closed, because it sends nothing
            writer.close()
            web.put(phase=Phase.PAUSED)
            assert (await received(watching))["migration"]["phase"] == "paused"


async def test_an_invalid_query_is_a_problem(web: Served) -> None:
    web.put()
    with pytest.raises(InvalidStatus) as refused:
        async with web.watch(query="?after=x"):
            pass
    assert refused.value.response.status_code == 400
    assert json.loads(refused.value.response.body)["errors"][0]["field"] == "after"


async def test_a_stopping_server_closes_with_its_code(tmp_path: Path) -> None:
    async with served(tmp_path) as web:
        web.put()
        connection = await web.watch()
        await received(connection)
    assert (await closed(connection))[0] == 1012


async def all_of(client: socket.socket) -> bytes:
    data = bytearray()
    with client:
        try:
            while part := await asyncio.get_running_loop().sock_recv(client, 1 << 20):
                data += part
        except ConnectionResetError:
            pass
    return bytes(data)


async def changes_until(web: Served, done: Callable[[], Awaitable[bool]]) -> int:
    """Change the migration until `done`. Returns how many changes a client that reads has got."""
    got = 0
    async with web.watch() as watching:
        await received(watching)
        while not await done():
            web.control.put(web.control.views["m"])
            await received(watching)
            got += 1
    return got


async def test_a_slow_reader_is_dropped_with_a_reason_and_others_go_on(tmp_path: Path) -> None:
    limits = replace(QUICK, slow_s=3.0, closing_s=60.0, sockets=2)
    async with served(tmp_path, limits) as web:
        web.put(tables=LARGE)
        client = await stalled(web, WATCH)

        async def dropped() -> bool:
            try:
                async with web.watch():
                    return True
            except InvalidStatus:
                return False

        assert await changes_until(web, dropped) > 1
        read = await all_of(client)
        reason = b"too slow: no message was read for some time"
        assert (4408).to_bytes(2, "big") + reason in read[-200:]


@pytest.mark.timeout(90)
async def test_a_reader_that_never_reads_is_cut_off(tmp_path: Path) -> None:
    async with served(tmp_path, replace(QUICK, slow_s=3.0, closing_s=0.1)) as web:
        web.put(tables=LARGE)
        with await stalled(web, WATCH) as client:

            async def cut_off() -> bool:
                return served_connections(web, client) == 0

            await changes_until(web, cut_off)
