"""What every request passes before it reaches a route: whose page sent it, how large it is, how long it
takes.

Browsers send requests for any page to this server. So:

- the Host header must be an IP address, localhost or an allowed name. Otherwise a page could have its own
  name resolved to this server's address (DNS rebinding), and be of the same origin;
- Origin and Sec-Fetch-Site, which pages cannot forge, must say that a page of this server sent the request;
- there are no cookies, so that a browser adds no credentials by itself.

Bodies are read completely before a route runs. Every answer has headers that forbid scripts of others,
frames, and sniffing of types.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clients.web.limits import Limits
from clients.web.problems import Refusal, RefusedError

API = "/api/"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_TOKEN_NAMES = frozenset({"token", "access_token", "authorization"})

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware. allowed_hosts: names besides localhost."""

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str], limits: Limits) -> None:
        self._app = app
        self._allowed = {"localhost", *(name.lower().rstrip(".") for name in allowed_hosts)}
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._check(scope)
        except RefusedError as exc:
            # Starlette's responses answer the handshake, too.
            await exc.response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            async with asyncio.timeout(self._limits.request_s):
                try:
                    self._check(scope)
                    await self._app(scope, await self._read(scope, receive), send_with_headers)
                except RefusedError as exc:
                    if started:
                        raise
                    await exc.response(scope, receive, send_with_headers)
        except TimeoutError:
            if started:
                raise
            late = RefusedError(
                Refusal.TIMED_OUT,
                "the request was not answered in time",
                "it may still be carried out: look at the migration",
            )
            await late.response(scope, receive, send_with_headers)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._knows(host):
            raise RefusedError(
                Refusal.UNKNOWN_HOST,
                f"this server is not known as {host[:200]!r}",
                "start it with --allowed-host and this name if it is the server's",
            )
        if not scope["path"].startswith(API):
            return
        if headers.get("sec-fetch-site", "none") not in {"same-origin", "none"} or not _own(headers, host):
            raise RefusedError(
                Refusal.FOREIGN_ORIGIN,
                "a page of another origin has sent this request",
                "if a reverse proxy is in front of this server, it must pass the Host header on",
            )
        query = scope["query_string"].decode("latin-1")
        if any(name.lower() in _TOKEN_NAMES for name, _ in parse_qsl(query, keep_blank_values=True)):
            raise RefusedError(
                Refusal.TOKEN_NEEDED,
                "the token must not be part of a URL, because URLs are logged",
                "send it in the header `Authorization: Bearer TOKEN`, and replace this one",
            )

    def _knows(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name.rstrip(".") in self._allowed:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    async def _read(self, scope: Scope, receive: Receive) -> Receive:
        """The body of a request that may have one, within the limits, as an ASGI channel."""
        if scope["method"] in _SAFE:
            return receive
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "0")
        if int(declared) > self._limits.body_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._limits.arrival_s):
                body, ended = await self._body(receive)
        except TimeoutError:
            raise RefusedError(Refusal.TOO_SLOW, "the body did not arrive in time") from None
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and (kind != "application/json" or "content-encoding" in headers):
            raise RefusedError(
                Refusal.NOT_JSON, "the body is not JSON", "send it as Content-Type: application/json"
            )
        return _replayed(body, receive) if ended else receive

    async def _body(self, receive: Receive) -> tuple[bytes, bool]:
        """What arrived, and whether it is complete: the client may have gone."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return bytes(body), False
            body += message.get("body", b"")
            if len(body) > self._limits.body_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body), True

    def _too_large(self) -> RefusedError:
        return RefusedError(Refusal.TOO_LARGE, f"the body has more than {self._limits.body_bytes} bytes")


def _own(headers: Headers, host: str) -> bool:
    """Whether the request comes from a page of this server, or from none."""
    origin = headers.get("origin")
    if origin is None:
        return True
    scheme, separator, place = origin.partition("://")
    return bool(separator) and scheme in {"http", "https"} and place.lower() == host.lower()


def _replayed(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
