"""The connection strings of a migration: kept in memory only, and looked up again after a restart.

A connection string that an operator gives for an existing migration is used or refused. It may contain a new
password, or another address of the same database, for example after a change of DNS. If it leads to another
database than the recorded one, it is refused with both names. It is never silently replaced by the recorded
one. Two addresses lead to the same database if the server's system identifier and the database's OID are
equal. A physical copy has the same values, so the source's timeline is compared, too, before pgmig continues
to read its WAL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from services.coordinator.migration.record import Record
from services.coordinator.migration.state import Migration
from services.coordinator.pipeline.primaries import Primaries
from services.shared.model import (
    DatabaseIdentity,
    Endpoint,
    ErrorKind,
    EventLevel,
    MigrationId,
    PgmigError,
    PipelineId,
)
from services.shared.pg.catalog.server import identity_of, read_server
from services.shared.pg.freeze.closed_database import beside
from services.shared.pg.freeze.thaw import Before
from services.shared.pg.preflight.checks import reachable
from services.shared.pg.replication.timelines import read_promoted
from services.shared.pg.session.connection import connection, reached
from services.shared.pg.session.uri import as_recorded, endpoint, passwordless_uri, same_servers
from services.shared.runtime.changes import Changes

PASSWORD_FILE_EVERY_S = 5.0
"""How often the password file is tried while credentials are missing."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """URIs with passwords; "" while unknown."""

    source_uri: str = field(default="", repr=False)
    destination_uri: str = field(default="", repr=False)

    @property
    def complete(self) -> bool:
        return bool(self.source_uri and self.destination_uri)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The servers and databases of those that are known."""
        return tuple(place(endpoint(uri)) for uri in (self.source_uri, self.destination_uri) if uri)

    def filled_from(self, other: Credentials) -> Credentials:
        """These connection strings; those that are missing come from `other`."""
        return Credentials(self.source_uri or other.source_uri, self.destination_uri or other.destination_uri)

    def swapped(self) -> Credentials:
        """Each in the place of the other."""
        return Credentials(self.destination_uri, self.source_uri)


NOTHING_GIVEN = Credentials()
OPTIONS = {"source": "--source-uri", "destination": "--dest-uri"}
"""Of the command line, by side."""


@dataclass(frozen=True, slots=True)
class Found:
    """credentials: those that were found. refused: by side ("source", "destination"), why another one was
    not, in the words of its server or the network."""

    credentials: Credentials = NOTHING_GIVEN
    refused: dict[str, PgmigError] = field(default_factory=dict)


async def of_password_file(source: Endpoint, destination: Endpoint) -> Found:
    """Connection strings without passwords, if libpq finds the passwords or none is needed. Each side is
    tried separately, so that a server that is down does not hide the result of the other one."""
    uris = {"source": passwordless_uri(source), "destination": passwordless_uri(destination)}
    answers = await asyncio.gather(*(_refusal(uri, side) for side, uri in uris.items()))
    refused = {side: error for side, error in zip(uris, answers, strict=True) if error is not None}
    known = {side: "" if side in refused else uri for side, uri in uris.items()}
    return Found(Credentials(known["source"], known["destination"]), refused)


async def _refusal(uri: str, side: str) -> PgmigError | None:
    try:
        await reachable(uri, side)
    except PgmigError as exc:
        return exc
    return None


def asked_for(record: Record, known: Credentials, refused: dict[str, PgmigError]) -> str:
    """For the timeline: which connection strings are needed, why, and how to give them."""
    known_uris = {"source": known.source_uri, "destination": known.destination_uri}
    missing = [side for side, uri in known_uris.items() if not uri]
    options = " ".join(f"{OPTIONS[side]} ..." for side in missing)
    text = (
        f"credentials are needed for the {' and the '.join(missing)}: give the connection strings with "
        f"`pgmig-cli resume --id {record.migration_id} {options}`"
    )
    for side in missing:
        if record.phase.blocks and record.frozen_side(side) is not None:
            text += f"; the {side} is closed to writers until then"
    down = [error.message for error in refused.values() if error.kind is ErrorKind.UNREACHABLE]
    return "; ".join([text, *down])


GO_ON = "leave that connection string out to continue with the recorded database"
GIVE_UP = (
    "give the connection strings of the recorded databases; if one of them does not exist any more, remove "
    "what is left elsewhere with `pgmig-cli cleanup --force --id {id}`"
)


@dataclass(frozen=True, slots=True)
class Judged:
    """accepted: what is used. moved: new addresses, by field of the record. refused: why one is not used,
    by field of the record."""

    accepted: Credentials
    moved: dict[str, Endpoint] = field(default_factory=dict)
    refused: dict[str, PgmigError] = field(default_factory=dict)

    def check(self) -> None:
        """Raises the first refusal."""
        for error in self.refused.values():
            raise error


def place(where: Endpoint) -> str:
    return where.address


async def judge(record: Record, given: Credentials, remedy: str) -> Judged:
    """Compare the given connection strings with the record. remedy: the hint if they name another
    database."""
    hint = remedy.format(id=record.migration_id)
    judged = Judged(given)
    source = await _judged(judged, "source", given.source_uri, record, hint)
    destination = await _judged(judged, "destination", given.destination_uri, record, hint)
    return replace(judged, accepted=Credentials(source, destination))


async def judge_to_go_on(record: Record, given: Credentials) -> Judged:
    """`judge` for commands after which the replication continues. Raises the first refusal, and GAP."""
    judged = await judge(record, given, GO_ON)
    judged.check()
    side = PipelineId(MigrationId.parse(record.migration_id), record.active).publisher
    if side in judged.moved:
        uris = {"source": judged.accepted.source_uri, "destination": judged.accepted.destination_uri}
        await check_timeline(record, uris[side], side)
    return judged


async def _judged(judged: Judged, side: str, uri: str, record: Record, hint: str) -> str:
    """The URI if it is accepted, else ""."""
    known: Endpoint = getattr(record, side)
    if not uri:
        return uri
    uri = as_recorded(uri, known)
    if same_servers(uri, known):
        return uri
    try:
        judged.moved[side] = await _found(side, uri, record, hint)
    except PgmigError as exc:
        judged.refused[side] = exc
        return ""
    return uri


async def _found(side: str, uri: str, record: Record, hint: str) -> Endpoint:
    recorded = f"the {side} of this migration is recorded as {place(getattr(record, side))}"
    known: DatabaseIdentity | None = getattr(record, f"{side}_identity")
    try:
        identity, found = await _seen(side, uri, record.frozen_side(side))
    except PgmigError as exc:
        raise PgmigError(exc.kind, f"{exc.message}; {recorded}", f"{exc.hint}, or {hint}") from exc
    if known is not None and identity != known:
        raise PgmigError(ErrorKind.INVALID_ARGUMENT, f"{place(found)} is another database: {recorded}", hint)
    return found


async def _seen(side: str, uri: str, freeze: Before | None) -> tuple[DatabaseIdentity | None, Endpoint]:
    """The database that `uri` leads to. If our freeze has closed it, it is looked up from another database
    of its server. The identity is None if that server has no such database."""
    try:
        async with connection(uri, side) as conn:
            return (await read_server(conn, side)).identity, reached(conn, uri)
    except PgmigError as exc:
        if exc.kind is not ErrorKind.DATABASE_CLOSED or freeze is None:
            raise
    conn = await beside(uri, freeze.door, side)
    try:
        return await identity_of(conn, endpoint(uri).dbname, side), reached(conn, uri)
    finally:
        await conn.close()


async def check_timeline(record: Record, uri: str, side: str = "source") -> None:
    """Raises GAP for a side on another timeline, unless it was promoted since, and has the slot. Whether it
    has all changes is checked when the phase begins (services.coordinator.pipeline.promotion).
    side: that the pipeline that works replicates from."""
    slot = record.pipeline(record.active).slot
    if slot is None or not slot.timeline:
        return
    # If the freeze has closed the database, its timeline is read from another one.
    freeze = record.frozen_side(side)
    name = PipelineId(MigrationId(record.migration_id), record.active).slot
    found = await read_promoted(uri, name, side, freeze.door if freeze else "")
    if found.timeline == slot.timeline or (found.has_slot and slot.timeline in found.ends):
        return
    raise PgmigError(
        ErrorKind.GAP,
        f"{place(endpoint(uri))} is on timeline {found.timeline}, but migration {record.migration_id} "
        f"reads from {place(getattr(record, side))}, timeline {slot.timeline}: the server was promoted "
        "since, without the replication slot, and changes may be missing from its WAL",
        f"clean up with `pgmig-cli cleanup --force --id {record.migration_id}`, then begin a new clone; "
        f"or {GO_ON}",
        found.flush_lsn,
    )


class KnownCredentials:
    """The connection strings that one migration works with.

    settings: the coordinator's own, used where none was given. embedded: they were given for the one
    migration that it has, so the password file does not replace them. changes: announced when some are
    accepted.
    """

    def __init__(
        self, migration: Migration, settings: Credentials, changes: Changes, *, embedded: bool = False
    ) -> None:
        self._migration = migration
        self._settings = settings
        self._changes = changes
        self._embedded = embedded
        self._known = NOTHING_GIVEN
        self._primaries = Primaries()

    def accept(self, offered: Credentials, *, proven: bool = False) -> None:
        """Accept connection strings of the recorded databases, and no others. No other method accepts any.

        A string with another host, port, database or user is ignored, unless a connection has proven that
        it leads to the recorded database (`judge`, or the checks of `start`). The newest ones are used.
        A side without a new one keeps the known one. Recorded parameters stay valid.
        """
        self._known = self._of_record(offered, proven=proven).filled_from(self._known)
        if self._known.complete and self._migration.needs_credentials:
            self._migration.needs_credentials = False
            self._migration.touch()
        self._changes.announce()

    def take_over(self, judged: Judged) -> Credentials:
        """Use the accepted connection strings, with their new addresses, from now on."""
        if judged.moved:
            self._migration.addresses_changed(judged.moved.get("source"), judged.moved.get("destination"))
        for side, where in judged.moved.items():
            self._migration.event(EventLevel.INFO, f"the {side} is reached at {place(where)} from now on")
        self.accept(judged.accepted, proven=True)
        return judged.accepted

    def _of_record(self, offered: Credentials, *, proven: bool) -> Credentials:
        record = self._migration.record

        def allowed(uri: str, where: Endpoint) -> str:
            if uri and same_servers(uri, where):
                return as_recorded(uri, where)
            return uri if proven else ""

        return Credentials(
            allowed(offered.source_uri, record.source),
            allowed(offered.destination_uri, record.destination),
        )

    @property
    def known(self) -> Credentials:
        """The connection strings that are known now, each with the primary's host only if it has been found.
        Nothing is looked up."""
        return Credentials(*(self._primaries.narrowed(side, uri) for side, uri in self._sides()))

    def _sides(self) -> tuple[tuple[str, str], ...]:
        return ("source", self._known.source_uri), ("destination", self._known.destination_uri)

    async def both(self) -> Credentials:
        """Both connection strings. Waits for `resume` while they are unknown. Raises UNREACHABLE if a side
        has several servers, and none is the primary."""
        await self._find(lambda: self._known.complete)
        await self.find_primaries(again=False)
        return self.known

    async def find_primaries(self, *sides: str, again: bool = True) -> bool:
        """Find the primary of each of these sides (of none: both) that has several servers. again: also where
        it was found before. Returns whether one is another server than before. Raises UNREACHABLE."""
        moved = False
        for side, uri in self._sides():
            if side not in (sides or OPTIONS) or not uri or (not again and self._primaries.known(side, uri)):
                continue
            record = self._migration.record
            identity: DatabaseIdentity | None = getattr(record, f"{side}_identity")
            system = identity.system_identifier if identity is not None else ""
            frozen = record.frozen_side(side)
            door = frozen.door if frozen is not None else ""
            if await self._primaries.find(side, uri, system, door):
                moved = True
                primary = endpoint(self._primaries.narrowed(side, uri))
                self._migration.event(
                    EventLevel.WARNING, f"the {side}'s primary is {place(primary)} from now on"
                )
        return moved

    async def source(self, *, again: bool = True) -> str:
        """Like `both`, if only the source is needed. again: see `find_primaries`."""
        await self._find(lambda: bool(self._known.source_uri))
        await self.find_primaries("source", again=again)
        return self.known.source_uri

    async def destination(self, *, again: bool = True) -> str:
        """Like `source`, for the destination."""
        await self._find(lambda: bool(self._known.destination_uri))
        await self.find_primaries("destination", again=again)
        return self.known.destination_uri

    async def known_source(self, *, again: bool = True) -> str:
        """The source's connection string. Raises CREDENTIALS_NEEDED instead of waiting. again: see
        `find_primaries`."""
        refused = await self._look()
        await self.find_primaries("source", again=again)
        return self.known.source_uri or self._unknown("source", refused)

    async def known_destination(self, *, again: bool = True) -> str:
        """Like `known_source`, for the destination."""
        refused = await self._look()
        await self.find_primaries("destination", again=again)
        return self.known.destination_uri or self._unknown("destination", refused)

    async def check_known(self) -> None:
        """Raises CREDENTIALS_NEEDED unless both connection strings are known."""
        await self.known_source()
        await self.known_destination()

    def _unknown(self, side: str, refused: dict[str, PgmigError]) -> str:
        why = refused.get(side)
        down = f"; {why.message}" if why is not None and why.kind is ErrorKind.UNREACHABLE else ""
        raise PgmigError(
            ErrorKind.CREDENTIALS_NEEDED,
            f"the connection string of the {side} of migration {self._migration.id} is not known any more"
            + down,
            f"give it with {OPTIONS[side]}",
        )

    async def _look(self) -> dict[str, PgmigError]:
        """Look for them where a restarted coordinator can find them without an operator. Returns, by side,
        why the password file did not help."""
        record, settings = self._migration.record, self._settings
        self._known = self._known.filled_from(self._of_record(settings, proven=False))
        if self._known.complete:
            return {}
        tried = await of_password_file(record.source, record.destination)
        found = tried.credentials
        if self._embedded:  # what was given names another address, so `judge` decides about it
            found = Credentials(
                "" if settings.source_uri else found.source_uri,
                "" if settings.destination_uri else found.destination_uri,
            )
        self._known = self._known.filled_from(self._of_record(found, proven=False))
        return tried.refused

    async def _find(self, enough: Callable[[], bool]) -> None:
        asked = ""
        while not enough():
            refused = await self._look()
            if enough():
                break
            text = asked_for(self._migration.record, self._known, refused)
            if text != asked:
                asked, self._migration.needs_credentials = text, True
                self._migration.event(EventLevel.WARNING, text)
            with suppress(TimeoutError):
                async with asyncio.timeout(PASSWORD_FILE_EVERY_S):
                    await self._changes.until(enough)
        self.accept(NOTHING_GIVEN)
