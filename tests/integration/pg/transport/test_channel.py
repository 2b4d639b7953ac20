"""The channel of a libpq connection: bytes left over, closed connections, waits that do not block."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from services.shared.model import MigrationId, PgmigError
from services.shared.pg.copy.part import PartCopier
from services.shared.pg.session.connection import connect
from services.shared.pg.transport import raw_connection as channels
from services.shared.pg.transport.raw_connection import Channel, TlsChannel, open_channel, ready
from tests.support.copying.databases import copy_schema, count, execute, exported_snapshot, keep_books, part
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.proxy import Proxy
from tests.support.servers.tls import plain_uri, tls_uri

PIPELINE = MigrationId("m1").forward
READY_AFTER_COPY = b"Z\0\0\0\5T"
QUERY = b"Q\0\0\0\x0fSELECT 42;\0"


class Adding(Proxy):
    """Adds bytes once, right behind the ReadyForQuery that ends a COPY."""

    extra = b""

    def altered(self, data: bytes) -> bytes:
        if self.extra and b"COPY " in data and data.endswith(READY_AFTER_COPY):
            data, self.extra = data + self.extra, b""
        return data


def error_response(sqlstate: bytes) -> bytes:
    body = b"SFATAL\0VFATAL\0C" + sqlstate + b"\0Mterminating connection\0\0"
    return b"E" + (len(body) + 4).to_bytes(4, "big") + body


def through(uri: str, proxy: Proxy) -> str:
    login, _, rest = uri.rpartition("@")
    return plain_uri(f"{login}@{proxy.address}/{rest.partition('/')[2]}")


@pytest.mark.parametrize("side", ["source", "destination"])
@pytest.mark.parametrize(
    "extra",
    [b"N\0\0\0\x20half a notice", b"T\0\0\0\6\0\0", b"\0", error_response(b"57P01")],
    ids=["half a message", "another answer", "one byte", "an error"],
)
async def test_bytes_after_the_last_answer_close_the_connection(
    tls_server: PostgresServer, tls_source: str, tls_dest: str, side: str, extra: bytes
) -> None:
    execute(tls_source, "CREATE TABLE t (id int)", "INSERT INTO t SELECT generate_series(1, 100)")
    copy_schema(tls_server.bin_dir, tls_source, tls_dest)
    await keep_books(tls_dest)
    proxy = Adding((tls_source if side == "source" else tls_dest).rpartition("@")[2].partition("/")[0])
    await proxy.start()
    there = through(tls_source, proxy) if side == "source" else plain_uri(tls_source)
    here = through(tls_dest, proxy) if side == "destination" else plain_uri(tls_dest)
    copier = PartCopier(there, here, PIPELINE)
    try:
        with exported_snapshot(tls_source) as snapshot:
            proxy.extra = extra
            with pytest.raises(PgmigError) as caught:
                await copier.copy(part("t", "id", snapshot=snapshot), lambda _rows, _size: None)
            assert caught.value.policy.retry
            assert proxy.extra == b""
            assert await asyncio.to_thread(count, tls_dest, "t") == 0  # the proxy runs in this thread
            await copier.copy(part("t", "id", snapshot=snapshot), lambda _rows, _size: None)
    finally:
        await copier.close()
        await proxy.close()
    assert count(tls_dest, "t") == 100


async def answer(channel: Channel) -> bytes:
    """To a query."""
    room, received = bytearray(4096), 0
    assert channel.send(QUERY) == len(QUERY)
    while not bytes(room[:received]).endswith(b"Z\0\0\0\5I"):
        try:
            received += channel.receive(memoryview(room)[received:])
        except BlockingIOError:
            await ready(channel)
    return bytes(room[:received])


@pytest.mark.parametrize("uri_of", [plain_uri, tls_uri])
async def test_connection_that_is_closed_under_a_channel_is_noticed(tls_source: str, uri_of: Any) -> None:
    conn = await connect(uri_of(tls_source), "source")
    channel = open_channel(conn)
    assert b"42" in await answer(channel)
    await conn.close()
    with pytest.raises(OSError, match="closed while its channel was in use"):
        channel.receive(memoryview(bytearray(10)))
    with pytest.raises(OSError, match="closed while its channel was in use"):
        channel.send(QUERY)
    channel.close()
    with pytest.raises(OSError, match="channel was closed"):
        channel.send(QUERY)


@pytest.mark.parametrize("uri_of", [plain_uri, tls_uri])
async def test_channel_holds_its_connection(tls_source: str, uri_of: Any) -> None:
    """Nobody else need: libpq would free the TLS session that the channel uses."""
    channels_by_id: dict[int, Channel] = {}

    async def use() -> None:
        conn = await connect(uri_of(tls_source), "source")
        channels_by_id[0] = open_channel(conn)

    await use()
    gc.collect()
    channel = channels_by_id[0]
    assert b"42" in await answer(channel)
    owner = channel._owner  # type: ignore[attr-defined]
    channel.close()
    await owner.close()


async def test_tls_session_that_must_write_first_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a change of keys that the other side asks for, while it takes nothing from us. No server does
    that at a test's word, so OpenSSL's part is played."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(b"x" * 65536)
    wanted = [channels._WANT_WRITE]
    played = SimpleNamespace(
        SSL_read=lambda *_: -1,
        SSL_write=lambda *_: -1,
        SSL_get_error=lambda *_: wanted[-1],
        ERR_clear_error=lambda: None,
        SSL_pending=lambda *_: 0,
    )
    monkeypatch.setattr(channels, "_libpq", lambda: played)
    owner = SimpleNamespace(closed=False, fileno=ours.fileno)
    channel = TlsChannel(owner, 1)
    with ours, theirs:
        with pytest.raises(BlockingIOError):
            channel.receive(memoryview(bytearray(10)))
        assert channel.crossed
        theirs.send(b"more that cannot be read yet")
        waiting = asyncio.create_task(ready(channel))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        with contextlib.suppress(BlockingIOError):
            while theirs.recv(65536):
                pass
        async with asyncio.timeout(30):
            await waiting
        wanted.append(channels._WANT_READ)
        with pytest.raises(BlockingIOError):
            channel.send(b"x")
        assert channel.crossed
        with pytest.raises(BlockingIOError):
            channel.receive(memoryview(bytearray(10)))
        assert not channel.crossed
