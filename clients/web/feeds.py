"""Watches each migration once for all WebSockets that show it.

A feed reads the coordinator's stream as fast as it comes and keeps only the last view, so that neither a
WebSocket nor the server holds the coordinator up. At most once in `Limits.change_s` the last view becomes a
change. A WebSocket waits for a number beyond the one that it has sent.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from clients.presentation.documents import freshness
from clients.session import Session, reconnect_delay
from clients.web.changes import Changes
from clients.web.limits import Limits
from clients.web.masking import shown
from clients.web.migrations import Migrations
from clients.web.problems import problem_of
from services.shared.model import ErrorKind, MigrationId, MigrationView, PgmigError

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
"""How often a migration of this machine that nothing runs is looked for."""
_ENCODED_KEPT = 8


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a feed ends: the WebSockets' close code and reason."""

    code: int
    reason: str


GONE, UNKNOWN, NOT_REACHED, DEFECT = 4410, 4404, 4503, 1011
_STOPPED = Ending(1012, "the server stops")
_CLEANED_UP = Ending(GONE, "the migration was cleaned up")


@dataclass(frozen=True, slots=True)
class Heard:
    """The last that is known. problem: why the coordinator does not answer. stale_at: since when the view may
    be out of date, in Unix seconds; None if the coordinator answers."""

    view: MigrationView
    stale_at: float | None = None
    problem: PgmigError | None = None


class Feed:
    """epoch: identifies the numbering of changes; another feed of the same migration has another one.
    users: WebSockets."""

    def __init__(self, migration_id: MigrationId, migrations: Migrations, limits: Limits) -> None:
        self.epoch = secrets.token_hex(8)
        self.users = 0
        self.ending: Ending | None = None
        self._id = migration_id
        self._migrations = migrations
        self._limits = limits
        self._changes = Changes()
        self._heard: Heard | None = None  # the last, not yet published
        self._shown: Heard | None = None
        self._arrived = asyncio.Event()
        self._announced = asyncio.Event()
        self._encoded: dict[int | None, str] = {}
        self._encoded_at = 0.0

    @property
    def sequence(self) -> int:
        return self._changes.sequence

    async def beyond(self, sequence: int) -> None:
        """Return when there is a change after this number, or the feed has ended."""
        while self.ending is None and self._changes.sequence <= sequence:
            await self._announced.wait()

    def message(self, sequence: int | None) -> str:
        """What a client lacks that has everything up to this number, as JSON; None: everything. Clients at
        the same number share the text."""
        if len(self._encoded) >= _ENCODED_KEPT or time.monotonic() - self._encoded_at > self._limits.change_s:
            self._encoded.clear()
        if sequence not in self._encoded:
            self._encoded[sequence] = json.dumps(self._document(sequence), ensure_ascii=False)
            self._encoded_at = time.monotonic()
        return self._encoded[sequence]

    def _document(self, sequence: int | None) -> dict[str, object]:
        assert self._shown is not None
        changed = self._changes.after(sequence) if sequence is not None else None
        document = changed if changed is not None else self._changes.whole()
        problem = self._shown.problem
        return {
            "type": "change" if changed is not None else "snapshot",
            "epoch": self.epoch,
            "sequence": self._changes.sequence,
            "migration": {**document, **freshness(self._shown.stale_at, time.time())},
            "problem": problem_of(problem) if problem is not None else None,
        }

    async def run(self) -> None:
        """Until the migration is cleaned up, or an error that no retry cures."""
        ending = _STOPPED
        try:
            async with asyncio.TaskGroup() as tasks:
                publishing = tasks.create_task(self._publish(), name=f"changes of {self._id}")
                ending = await self._watch()
                publishing.cancel()
        except Exception:
            log.exception("unexpected error while watching %s", self._id)
            ending = Ending(DEFECT, "defect of pgmig: see the log of `pgmig-cli serve`")
        else:
            self._show()
        finally:
            self.ending = ending
            self._announce()

    async def _watch(self) -> Ending:
        failures = 0
        while True:
            try:
                found = await self._migrations.find(self._id)
                if isinstance(found, Session):
                    async with aclosing(found.watch(self._id.value)) as views:
                        async for view in views:
                            failures = 0
                            self._hear(Heard(shown(view)))
                    return _CLEANED_UP
                self._hear(Heard(shown(found.view), found.written_at))
                await asyncio.sleep(LOOK_EVERY_S)
            except PgmigError as exc:
                if exc.kind is ErrorKind.NOT_FOUND:
                    return _CLEANED_UP if self._heard is not None else Ending(UNKNOWN, _short(str(exc)))
                if self._heard is None or not exc.policy.retry:
                    return Ending(NOT_REACHED, _short(str(exc)))
                failures += 1
                stale_at = self._heard.stale_at or time.time()
                self._hear(Heard(self._heard.view, stale_at, exc))
                await asyncio.sleep(reconnect_delay(failures))

    def _hear(self, heard: Heard) -> None:
        self._heard = heard
        self._arrived.set()

    async def _publish(self) -> None:
        while True:
            await self._arrived.wait()
            self._show()
            await asyncio.sleep(self._limits.change_s)

    def _show(self) -> None:
        """Make what was heard the next change, if anything has changed."""
        self._arrived.clear()
        if self._heard is None:
            return
        before, self._shown = self._shown, self._heard
        if self._changes.add(self._shown.view):
            self._announce()
        elif before is not None and _state(before) != _state(self._shown):
            self._changes.touch()
            self._announce()

    def _announce(self) -> None:
        self._encoded.clear()
        self._announced.set()
        self._announced = asyncio.Event()


def _state(heard: Heard) -> tuple[bool, bool]:
    return heard.stale_at is None, heard.problem is None


def _short(text: str) -> str:
    """A close frame has room for 123 bytes."""
    return text.encode()[:120].decode(errors="ignore")


class Feeds:
    """The feeds of all migrations that WebSockets show."""

    def __init__(self, migrations: Migrations, limits: Limits) -> None:
        self._migrations = migrations
        self._limits = limits
        self._running: dict[MigrationId, tuple[Feed, asyncio.Task[None]]] = {}

    @asynccontextmanager
    async def subscribed(self, migration_id: MigrationId) -> AsyncIterator[Feed]:
        """The migration's feed, which continues for `Limits.linger_s` after its last user."""
        feed = self._of(migration_id)
        feed.users += 1
        try:
            yield feed
        finally:
            feed.users -= 1
            if feed.users == 0:
                linger = 0.0 if feed.ending is not None else self._limits.linger_s
                asyncio.get_running_loop().call_later(linger, self._stop_unused, migration_id, feed)

    @property
    def users(self) -> int:
        return sum(feed.users for feed, _ in self._running.values())

    def _of(self, migration_id: MigrationId) -> Feed:
        known = self._running.get(migration_id)
        if known is not None and known[0].ending is None:
            return known[0]
        feed = Feed(migration_id, self._migrations, self._limits)
        task = asyncio.create_task(feed.run(), name=f"feed of {migration_id}")
        self._running[migration_id] = feed, task
        return feed

    def _stop_unused(self, migration_id: MigrationId, feed: Feed) -> None:
        running = self._running.get(migration_id)
        if running is not None and running[0] is feed and feed.users == 0:
            running[1].cancel()
            del self._running[migration_id]

    async def close(self) -> None:
        tasks = [task for _, task in self._running.values()]
        self._running.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
