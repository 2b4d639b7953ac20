"""The subscription to a migration's views. It posts each view as a message and never accesses a widget.

The session reconnects: `follow` continues after broken streams and restarts of the coordinator,
and reports when the connection is lost and when it is restored.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from textual.message import Message

from clients.session import Connection, OnConnection
from services.shared.model import ErrorKind, MigrationView, PgmigError


class Views(Protocol):
    """The part of a session that the subscription uses: snapshots until the migration is cleaned up.

    Raises PgmigError if the coordinator was never reached, or for an error that no retry cures.
    """

    def follow(self, migration_id: str, on_connection: OnConnection, /) -> AsyncIterator[MigrationView]: ...


class ViewReceived(Message):
    """A new snapshot, so the connection works."""

    def __init__(self, view: MigrationView) -> None:
        super().__init__()
        self.view = view


class ConnectionLost(Message):
    """The stream broke; the session is retrying."""

    def __init__(self, error: PgmigError) -> None:
        super().__init__()
        self.error = error


class SubscriptionEnded(Message):
    """No more views will arrive. error is None if the migration was cleaned up."""

    def __init__(self, error: PgmigError | None) -> None:
        super().__init__()
        self.error = error


def explained(exc: Exception, doing: str) -> PgmigError:
    """`exc` as an error to show. An exception that was not translated is a defect, but the dashboard
    must not disappear because of it during a switchover."""
    if isinstance(exc, PgmigError):
        return exc
    return PgmigError(
        ErrorKind.INTERNAL, f"{doing}: {type(exc).__name__}: {exc}", "the coordinator's log may say more"
    )


async def listen(session: Views, migration_id: str, post: Callable[[Message], object]) -> None:
    """Post ViewReceived and ConnectionLost, and SubscriptionEnded at the end."""

    def on_connection(connection: Connection) -> None:
        if connection.error is not None:
            post(ConnectionLost(connection.error))

    error: PgmigError | None = None
    try:
        async for view in session.follow(migration_id, on_connection):
            post(ViewReceived(view))
    except Exception as exc:  # shown: see `explained`
        error = explained(exc, "watching the migration")
    post(SubscriptionEnded(error))
