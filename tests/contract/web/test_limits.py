"""What one client can make the server keep is bounded, in size and in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from clients.web.limits import DEFAULT_LIMITS, fitting
from services.shared.model import MigrationId
from tests.support.web.served import AUTHORIZED, TOKEN, Served, served
from tests.support.web.stalled import LARGE, UPGRADE, WATCH, served_connections, stalled

HASTY = replace(DEFAULT_LIMITS, arrival_s=0.2, request_s=0.4, body_bytes=100)


@asynccontextmanager
async def raw(web: Served) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(web.url.rpartition(":")[2]))
    try:
        yield reader, writer
    finally:
        writer.close()


def head(extra: str) -> bytes:
    return (
        f"POST /api/v1/migrations/m/pause HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/json\r\n{extra}\r\n\r\n"
    ).encode()


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(head("Content-Length: 101") + b" " * 101, id="declared"),
        pytest.param(
            head("Transfer-Encoding: chunked") + b"65\r\n" + b" " * 101 + b"\r\n0\r\n\r\n", id="chunked"
        ),
        pytest.param(head("Content-Length: 1000000000000"), id="declared and never sent"),
    ],
)
async def test_a_large_body_is_refused(tmp_path: Path, request_bytes: bytes) -> None:
    async with served(tmp_path, HASTY) as web, raw(web) as (reader, writer):
        web.put()
        writer.write(request_bytes)
        assert b" 413 " in await reader.readline()
        assert web.control.calls == []


async def test_a_body_that_does_not_arrive_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path, HASTY) as web, raw(web) as (reader, writer):
        web.put()
        writer.write(head("Content-Length: 10") + b"{")
        assert b" 408 " in await reader.readline()
        assert web.control.calls == []


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: loc", id="half a head"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /", id="half a second head"),
    ],
)
async def test_a_connection_whose_request_does_not_arrive_is_closed(tmp_path: Path, sent: bytes) -> None:
    async with served(tmp_path, HASTY) as web, raw(web) as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(60):
            await reader.read()  # until the end


async def test_a_websocket_that_does_not_complete_its_handshake_is_closed(tmp_path: Path) -> None:
    async with served(tmp_path, HASTY) as web, raw(web) as (reader, writer):
        writer.write(UPGRADE + b"X: " + b"x" * 9000 + b"\r\n\r\n")  # longer than its parser takes
        async with asyncio.timeout(60):
            await reader.read()


async def test_a_connection_beyond_the_limit_is_closed_before_it_sends_anything(tmp_path: Path) -> None:
    limits = replace(DEFAULT_LIMITS, connections=2, arrival_s=600)
    async with served(tmp_path, limits) as web, raw(web), raw(web), raw(web) as (reader, _):
        with suppress(ConnectionResetError):
            async with asyncio.timeout(60):
                assert await reader.read() == b""


@pytest.mark.parametrize(
    ("files", "connections"), [(-1, 1024), (1 << 20, 1024), (1024, 768), (256, 128), (1, 1)]
)
def test_the_server_keeps_files_for_itself(files: int, connections: int) -> None:
    assert fitting(DEFAULT_LIMITS, files).connections == connections


@pytest.mark.parametrize("extra", ["", "Connection: close\r\n"])
async def test_a_client_that_does_not_read_an_answer_is_cut_off(tmp_path: Path, extra: str) -> None:
    async with served(tmp_path, replace(DEFAULT_LIMITS, slow_s=0.2, closing_s=0.2)) as web:
        web.put(tables=LARGE)
        request = f"GET /api/v1/migrations/m HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n"
        with await stalled(web, request.encode()) as client:
            async with asyncio.timeout(60):
                while served_connections(web, client):
                    await web.http.get("/healthz")


async def test_pings_of_a_websocket_that_does_not_read_are_not_answered_without_end(tmp_path: Path) -> None:
    async with served(tmp_path, replace(DEFAULT_LIMITS, slow_s=0.2, closing_s=0.2)) as web:
        web.put()
        pings = (b"\x89\xfd" + bytes(4) + b"x" * 125) * 1000
        loop = asyncio.get_running_loop()
        with await stalled(web, WATCH) as client, pytest.raises(ConnectionError):
            assert await loop.sock_recv(client, 12) == b"HTTP/1.1 101"
            async with asyncio.timeout(30):
                while True:
                    await loop.sock_sendall(client, pings)


async def test_a_large_head_is_refused(web: Served) -> None:
    async with raw(web) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000)
        assert b" 400 " in await reader.readline()


async def test_a_request_that_lasts_too_long_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, HASTY) as web:
        web.put()

        async def stuck(_: MigrationId) -> None:
            await asyncio.Event().wait()

        monkeypatch.setattr(web.control, "pause", stuck)
        response = await web.http.post("/api/v1/migrations/m/pause", headers=AUTHORIZED)
        assert (response.status_code, response.json()["kind"]) == (504, "TIMED_OUT")
