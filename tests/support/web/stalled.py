"""Clients of the web server that do not read what they get."""

from __future__ import annotations

import asyncio
import socket

import psutil

from services.shared.model import TableId, TableProgress, TableState
from tests.support.web.served import Served

LARGE = tuple(
    TableProgress(TableId("app", f"{number:05}" + "x" * 500), TableState.COPYING) for number in range(12_000)
)
"""More than the buffers of a connection hold, so that a client that reads nothing takes no second message."""

UPGRADE = (
    b"GET /api/v1/migrations/m/watch HTTP/1.1\r\nHost: localhost\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
WATCH = UPGRADE + b"\r\n"
"""The request for a migration's WebSocket. UPGRADE is without the end of its headers."""


async def stalled(web: Served, request: bytes) -> socket.socket:
    """A client that has sent a request and reads nothing."""
    port = int(web.url.rpartition(":")[2])
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, ("127.0.0.1", port))
    await loop.sock_sendall(client, request)
    return client


def served_connections(web: Served, client: socket.socket) -> int:
    """How many connections of the client the server, which is in this process, still has."""
    port, from_port = int(web.url.rpartition(":")[2]), client.getsockname()[1]
    known = psutil.Process().net_connections("tcp")
    return sum(1 for one in known if one.laddr.port == port and one.raddr and one.raddr.port == from_port)
