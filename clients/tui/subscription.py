"""The subscription to a migration's views: posts each as a message, and never touches a widget.

Reconnecting is the session's: `follow` outlives broken streams and restarts of the coordinator,
and says when the connection is lost and when it is back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from textual.message import Message

from clients.session import Connection, OnConnection
from services.shared.model import ErrorKind, MigrationView, PgmigError


class Views(Protocol):
    """What the subscription needs of a session: snapshots until the migration is cleaned up.

    Raises PgmigError when the coordinator was never reached, or for what no retry cures.
    """

    def follow(self, migration_id: str, on_connection: OnConnection, /) -> AsyncIterator[MigrationView]: ...


class ViewReceived(Message):
    """A new snapshot: the connection works."""

    def __init__(self, view: MigrationView) -> None:
        super().__init__()
        self.view = view


class ConnectionLost(Message):
    """The stream broke; the session tries again."""

    def __init__(self, error: PgmigError) -> None:
        super().__init__()
        self.error = error


class SubscriptionEnded(Message):
    """Nothing more will be heard. error is None when the migration was cleaned up."""

    def __init__(self, error: PgmigError | None) -> None:
        super().__init__()
        self.error = error


def explained(exc: Exception, doing: str) -> PgmigError:
    """`exc` as an error to show. One that nobody translated is a defect, but no reason for the
    dashboard to disappear in the middle of a switchover."""
    if isinstance(exc, PgmigError):
        return exc
    return PgmigError(
        ErrorKind.INTERNAL, f"{doing}: {type(exc).__name__}: {exc}", "the coordinator's log may say more"
    )


async def listen(session: Views, migration_id: str, post: Callable[[Message], object]) -> None:
    """Post ViewReceived and ConnectionLost, and at last SubscriptionEnded."""

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
