"""Finds the coordinator of a migration, and what is recorded of it when none runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import TypeVar

from clients.serving import Places, Recorded
from clients.session import Session
from clients.web.reads import Reads
from services.shared.model import ErrorKind, MigrationId, MigrationView, PgmigError

Connect = Callable[[str], Session]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Known:
    """recorded_at: when the view was written, if no coordinator has answered; Unix seconds. problem: why the
    coordinator that runs has not answered."""

    view: MigrationView
    recorded_at: float | None = None
    problem: PgmigError | None = None


@dataclass(frozen=True, slots=True)
class Unread:
    """A migration of this machine of which nothing can be read."""

    migration_id: MigrationId
    problem: PgmigError


class Migrations:
    """Create it inside a running event loop, and close it. Sessions are kept and shared by all requests."""

    def __init__(self, places: Places, connect: Connect = Session) -> None:
        self.places = places
        self._connect = connect
        self._sessions: dict[MigrationId | None, Session] = {}
        self._reads: dict[Session, Reads] = {}
        self._certificates = Reads()

    async def close(self) -> None:
        for reads in (*self._reads.values(), self._certificates):
            await reads.close()
        for session in self._sessions.values():
            await session.close()

    async def find(self, migration_id: MigrationId) -> Session | Recorded:
        """A session with the coordinator that runs the migration, or what is recorded if none does.

        Raises NOT_FOUND if this machine does not know the migration."""
        if self.places.coordinator:
            return await self._session(None, self.places.coordinator)
        address = await asyncio.to_thread(self.places.address, migration_id)
        if address:
            return await self._session(migration_id, address)
        return await self._recorded(migration_id, "show")

    async def session(self, migration_id: MigrationId, doing: str) -> Session:
        """Raises PgmigError if no coordinator runs the migration. doing: "pause", for the error."""
        found = await self.find(migration_id)
        if isinstance(found, Recorded):
            raise self.places.not_running(migration_id, doing)
        return found

    async def read(
        self, session: Session, key: Hashable, call: Callable[[], Awaitable[T]], keep_s: float = 0.0
    ) -> T:
        """What a call of the session returns that changes nothing, as `Reads.get`."""
        return await self._reads.setdefault(session, Reads()).get(key, call, keep_s)

    async def certificate(self, migration_id: MigrationId, operation_id: str) -> dict[str, object]:
        return await self._certificates.get(
            (migration_id, operation_id), lambda: self.places.certificate(migration_id, operation_id)
        )

    async def get(self, migration_id: MigrationId) -> Known:
        """The last recorded view if the coordinator of this machine does not answer."""
        found = await self.find(migration_id)
        if isinstance(found, Session):
            try:
                key = ("get", migration_id)
                return Known(await self.read(found, key, lambda: found.get(migration_id.value)))
            except PgmigError as exc:
                if self.places.coordinator or not (exc.policy.retry or exc.kind is ErrorKind.TIMEOUT):
                    raise
                recorded = await asyncio.to_thread(self.places.recorded, migration_id)
                if recorded is None:
                    raise
                return Known(recorded.view, recorded.written_at, exc)
        return Known(found.view, found.written_at)

    async def list_all(self) -> tuple[Known | Unread, ...]:
        """Those of this machine, or of the one coordinator."""
        if self.places.coordinator:
            session = await self._session(None, self.places.coordinator)
            return tuple(Known(view) for view in await self.read(session, "list", session.list_all))
        ids = await asyncio.to_thread(self.places.known)
        return tuple(await asyncio.gather(*(self._get_or_unread(one) for one in ids)))

    async def _get_or_unread(self, migration_id: MigrationId) -> Known | Unread:
        try:
            return await self.get(migration_id)
        except PgmigError as exc:
            return Unread(migration_id, exc)

    async def check(self) -> None:
        """Raises PgmigError if no request can be answered."""
        if self.places.coordinator:
            session = await self._session(None, self.places.coordinator)
            try:
                # The cheapest call that a coordinator answers.
                await self.read(session, "check", lambda: session.list_operations("x"))
            except PgmigError as exc:
                if exc.kind is not ErrorKind.NOT_FOUND:
                    raise
        else:
            await asyncio.to_thread(self.places.known)

    async def _recorded(self, migration_id: MigrationId, doing: str) -> Recorded:
        recorded = await asyncio.to_thread(self.places.recorded, migration_id)
        if recorded is None:
            raise self.places.not_running(migration_id, doing)
        return recorded

    async def _session(self, owner: MigrationId | None, address: str) -> Session:
        """owner: the migration whose coordinator it is, None for the coordinator of all. A coordinator that
        was started again may have another address."""
        known = self._sessions.get(owner)
        if known is not None and known.address == address:
            return known
        self._sessions[owner] = made = self._connect(address)
        if known is not None:
            self._reads.pop(known, None)
            await known.close()
        return made
