"""uvicorn's connections with more limits: a request must arrive in time, and a client must read what is sent.

uvicorn by itself waits without end for the first bytes of a request, for the rest of a WebSocket's handshake,
and for a client that reads nothing, even after it has closed the connection.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Self, cast

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from clients.web.limits import DEFAULT_LIMITS, Limits

_LEAST_READ = 64 << 10
"""Bytes that a slow client must read within a time limit to get it again."""


class BoundedTransport:
    """A transport that is aborted if the client does not read. Nothing is read from the client while it does
    not read either, because pings are answered. Anything else is the transport's."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        self._transport = transport
        self._loop = loop
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._ending = self._lost = False
        self._reading, self._held = True, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def close(self) -> None:
        self._transport.close()
        self.end()

    def end(self) -> None:
        """The client has `Limits.closing_s` to read the rest."""
        if not self._ending:
            self._ending = True
            self._abort_after(self._limits.closing_s)

    def writing_paused(self, grace_s: float = 0.0) -> None:
        """grace_s: added to `Limits.slow_s`."""
        self._held = True
        self._transport.pause_reading()
        if not self._ending:
            self._abort_after(self._limits.slow_s + grace_s)

    def writing_resumed(self) -> None:
        self._held = False
        if self._reading:
            self._transport.resume_reading()
        if not self._ending:
            self._cancel()

    def lost(self) -> None:
        self._lost = True
        self._cancel()

    def pause_reading(self) -> None:
        self._reading = False
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._reading = True
        if not self._held:
            self._transport.resume_reading()

    def _abort_after(self, seconds: float) -> None:
        self._cancel()
        if not self._lost:
            unsent = self._transport.get_write_buffer_size()
            self._timer = self._loop.call_later(seconds, self._abort_unless_read, seconds, unsent)

    def _abort_unless_read(self, seconds: float, unsent: int) -> None:
        if unsent - self._transport.get_write_buffer_size() >= _LEAST_READ:
            self._abort_after(seconds)
        else:
            self._transport.abort()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class HttpConnection(H11Protocol):
    """Closed unless the head of each request arrives within `Limits.arrival_s` of its first byte, and that of
    the first request within the same time of the connection. Aborted if there are too many."""

    limits: ClassVar[Limits] = DEFAULT_LIMITS
    bounded: BoundedTransport
    _deadline: asyncio.TimerHandle | None = None
    _upgraded = False

    @classmethod
    def within(cls, limits: Limits) -> type[Self]:
        return type(cls.__name__, (cls,), {"limits": limits})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.bounded = BoundedTransport(transport, self.loop, self.limits)
        super().connection_made(cast("asyncio.Transport", self.bounded))
        if len(self.connections) > self.limits.connections:
            transport.abort()
        else:
            self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._upgraded:
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel()
        elif self._deadline is None and not self.transport.is_closing():
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        self.bounded.lost()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.bounded.writing_paused()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.bounded.writing_resumed()

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._cancel()
        self._upgraded = True
        super().handle_websocket_upgrade(event)

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(self.limits.arrival_s, self.transport.close)

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class SocketConnection(WebSocketsSansIOProtocol):
    """Aborted unless it is accepted or refused within `Limits.arrival_s`. A client that is dropped has
    `Limits.closing_s` to read what was sent before, and the close frame."""

    limits: ClassVar[Limits] = DEFAULT_LIMITS
    bounded: BoundedTransport
    _deadline: asyncio.TimerHandle

    @classmethod
    def within(cls, limits: Limits) -> type[Self]:
        return type(cls.__name__, (cls,), {"limits": limits})

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """transport: the BoundedTransport of the HttpConnection before."""
        self.bounded = cast("BoundedTransport", transport)
        super().connection_made(transport)
        self._deadline = self.loop.call_later(self.limits.arrival_s, self.bounded.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        self.bounded.lost()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.bounded.writing_paused(self.limits.closing_s)

    def resume_writing(self) -> None:
        super().resume_writing()
        self.bounded.writing_resumed()

    def keepalive_timeout(self) -> None:
        """While the client is behind, its answer is not read: then `Limits.slow_s` applies."""
        if self.writable.is_set():
            super().keepalive_timeout()
        else:
            self.pong_timer = self.pending_ping_payload = None
            self.schedule_ping()

    async def send(self, message: Any) -> None:
        if message["type"] == "websocket.accept":
            self._deadline.cancel()
        elif message["type"] == "websocket.close":
            self.bounded.end()
        await super().send(message)
