"""uvicorn's connections with two more limits: a request must arrive in time, and a dropped WebSocket must not
stay.

uvicorn by itself waits without end for the first bytes of a request, and for a WebSocket that reads nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Self

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from clients.web.limits import DEFAULT_LIMITS, Limits


class HttpConnection(H11Protocol):
    """Closed unless the head of each request arrives within `Limits.arrival_s` of its first byte, and that of
    the first request within the same time of the connection."""

    limits: ClassVar[Limits] = DEFAULT_LIMITS
    _deadline: asyncio.TimerHandle | None = None

    @classmethod
    def within(cls, limits: Limits) -> type[Self]:
        return type(cls.__name__, (cls,), {"limits": limits})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._cancel()
        elif self._deadline is None and not self.transport.is_closing():
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: Any) -> None:
        self._cancel()
        super().handle_websocket_upgrade(event)

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(self.limits.arrival_s, self.transport.close)

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class SocketConnection(WebSocketsSansIOProtocol):
    """A client that is dropped has `Limits.closing_s` to read what was sent before, and the close frame."""

    limits: ClassVar[Limits] = DEFAULT_LIMITS

    @classmethod
    def within(cls, limits: Limits) -> type[Self]:
        return type(cls.__name__, (cls,), {"limits": limits})

    async def send(self, message: Any) -> None:
        if message["type"] == "websocket.close":
            self.loop.call_later(self.limits.closing_s, self.transport.abort)
        await super().send(message)
