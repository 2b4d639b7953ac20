"""A TCP proxy whose connections a test can cut or silence. It runs in the test's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Relays TCP between a client and the server at `address`. Connections can be cut or silenced."""

    def __init__(self, address: str, delay_s: float = 0.0) -> None:
        """delay_s: between a read and the write of what was read, in each direction."""
        self._delay_s = delay_s
        self._target = address.split(":")
        self._silent = False
        self._closed = False
        self._writers: list[asyncio.StreamWriter] = []
        self._cut: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepting = asyncio.current_task()
        assert accepting is not None
        self._tasks.add(accepting)
        self._writers.append(writer)
        try:
            back_reader, back_writer = await asyncio.open_connection(self._target[0], int(self._target[1]))
        except OSError:  # the server is down
            writer.close()
            return
        self._writers.append(back_writer)
        if self._closed:
            self.cut()
        for source, sink in ((reader, back_writer), (back_reader, writer)):
            self._tasks.add(asyncio.create_task(self._relay(source, sink)))

    def altered(self, data: bytes) -> bytes:
        """Return the bytes to send instead of `data`."""
        return data

    async def _relay(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                if self._silent:
                    continue
                await asyncio.sleep(self._delay_s)
                sink.write(self.altered(data))
                await sink.drain()
        sink.close()

    def silence(self) -> None:
        """Keep the connections open, but relay nothing more, like a host that lost its power."""
        self._silent = True

    def speak(self) -> None:
        """Relay new connections only, because the old ones have lost bytes."""
        self._silent = False

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._cut += self._writers
        self._writers.clear()

    def refuse(self) -> None:
        """Refuse connections, like a server that is down, and cut those that there are."""
        self._server.close()
        self.cut()

    async def accept_again(self) -> None:
        host, port = self.address.split(":")
        self._server = await asyncio.start_server(self._accept, host, int(port))

    async def close(self) -> None:
        self._closed = True
        self._server.close()
        self.cut()
        while running := [task for task in self._tasks if not task.done()]:
            await asyncio.wait(running)
        for writer in self._cut:
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def proxied(address: str, delay_s: float = 0.0) -> AsyncIterator[Proxy]:
    proxy = Proxy(address, delay_s)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
