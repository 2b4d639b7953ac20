"""The program of `pgmig-cli serve`: uvicorn with limits, until it is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import resource
import socket
import traceback
from collections.abc import Generator

import uvicorn

from clients.diagnostics import say, warn
from clients.serving import Announce, Places, ServerSettings
from clients.web.app import build
from clients.web.connections import HttpConnection, SocketConnection
from clients.web.context import Web
from clients.web.feeds import Feeds
from clients.web.limits import DEFAULT_LIMITS, Limits, fitting
from clients.web.migrations import Migrations
from clients.web.tokens import load_token
from services.shared.model import ErrorKind, PgmigError

_LONGEST_FROM_CLIENT = 1024
"""Bytes of a message that a WebSocket sends, although none is expected."""
_BACKLOG = 64
"""Connections that are accepted at once, before they are counted."""
_STOPPING_S = 5


class _Server(uvicorn.Server):
    """Signals are the command line's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class _Talk(logging.Handler):
    """What the server logs goes to standard error, where it is redacted."""

    def emit(self, record: logging.LogRecord) -> None:
        warn(record.getMessage())
        if record.exc_info and record.exc_info[1] is not None:
            for line in traceback.format_exception(record.exc_info[1]):
                say(line.rstrip())


async def serve(
    settings: ServerSettings, places: Places, announce: Announce, limits: Limits = DEFAULT_LIMITS
) -> None:
    """Raises PgmigError(INVALID_ARGUMENT) if it cannot listen there, or has no usable token."""
    token = load_token(settings, os.environ)
    limits = fitting(limits, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    with _listening(settings) as listener:
        migrations = Migrations(places)
        feeds = Feeds(migrations, limits)
        app = build(Web(migrations, feeds, token, limits, settings.allow_hooks), settings.allowed_hosts)
        server = _Server(
            uvicorn.Config(
                app,
                http=HttpConnection.within(limits),
                ws=SocketConnection.within(limits),
                ws_max_size=_LONGEST_FROM_CLIENT,
                ws_per_message_deflate=False,
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=limits.connections + 1,  # of requests: HttpConnection counts connections
                backlog=_BACKLOG,
                h11_max_incomplete_event_size=limits.head_bytes,
                timeout_graceful_shutdown=_STOPPING_S,
            )
        )
        _log_to_stderr()
        port = listener.getsockname()[1]
        if not _only_here(settings.host):
            warn(
                f"{settings.host} can be reached from other machines: everybody who reaches it can read the "
                "state of the migrations, and connections are not encrypted; put a reverse proxy with TLS "
                "before a server that listens on this machine only"
            )
        announce(f"http://{_bracketed(settings.host)}:{port}", token.place)
        try:
            await _until_cancelled(server, listener)
        finally:
            await feeds.close()
            await migrations.close()


async def _until_cancelled(server: uvicorn.Server, listener: socket.socket) -> None:
    """A second cancellation does not wait for connections."""
    running = asyncio.create_task(server.serve([listener]), name="web server")
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        server.should_exit = True
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            server.force_exit = True
            await running
        raise


@contextlib.contextmanager
def _listening(settings: ServerSettings) -> Generator[socket.socket, None, None]:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise _cannot_listen(settings, exc) from exc
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()  # clients may connect as soon as the address is announced
        except OSError as exc:
            raise _cannot_listen(settings, exc) from exc
        yield listener


def _cannot_listen(settings: ServerSettings, exc: OSError) -> PgmigError:
    return PgmigError(
        ErrorKind.INVALID_ARGUMENT,
        f"cannot listen on {_bracketed(settings.host)}:{settings.port}: {exc.strerror}",
        "choose another address with --listen",
    )


def _only_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _log_to_stderr() -> None:
    """Without the lines of single requests, which would contain URLs."""
    for name in ("clients.web", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers = [_Talk()]
        logger.setLevel(logging.WARNING)
        logger.propagate = False
