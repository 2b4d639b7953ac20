"""Connection strings that an operator gives for a migration that exists already: they are used, or refused.

They may hold a new password, or another address of the same database, as after a change of DNS. What
names another database than the recorded one is refused with both names, and never silently replaced by
what is recorded. Two addresses lead to the same database when the system identifier of the server and
the OID of the database are equal; a physical copy shares both, so a source is compared by its
timeline, too, before its WAL is read on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from services.coordinator.migration.record import Record
from services.coordinator.pipeline.credentials import Credentials
from services.shared.model import DatabaseIdentity, Endpoint, ErrorKind, PgmigError
from services.shared.pg.catalog.server import identity_of, read_server
from services.shared.pg.freeze.closed_database import beside
from services.shared.pg.freeze.thaw import Before
from services.shared.pg.replication.connection import ReplicationConnection
from services.shared.pg.session.connection import connection, reached
from services.shared.pg.session.uri import as_recorded, endpoint

GO_ON = "leave that connection string out to go on with the recorded database"
GIVE_UP = (
    "give the connection strings of the recorded databases; if one of them does not exist any more, remove "
    "what is left elsewhere with `pgmig-cli cleanup --force --id {id}`"
)


@dataclass(frozen=True, slots=True)
class Handover:
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
    return f"{where.host}:{where.port}/{where.dbname}"


async def judge(record: Record, given: Credentials, remedy: str) -> Handover:
    """Compare what is given with the record. remedy: the hint where another database is named."""
    hint = remedy.format(id=record.migration_id)
    handover = Handover(given)
    source = await _judged(handover, "source", given.source_uri, record, hint)
    destination = await _judged(handover, "destination", given.destination_uri, record, hint)
    return replace(handover, accepted=Credentials(source, destination))


async def judge_to_go_on(record: Record, given: Credentials) -> Handover:
    """`judge` for commands after which changes are read on. Raises the first refusal, and GAP."""
    handover = await judge(record, given, GO_ON)
    handover.check()
    if "source" in handover.moved:
        await check_timeline(record, handover.accepted.source_uri)
    return handover


async def _judged(handover: Handover, side: str, uri: str, record: Record, hint: str) -> str:
    """The URI if it is accepted, else ""."""
    known: Endpoint = getattr(record, side)
    if not uri:
        return uri
    uri = as_recorded(uri, known)
    if endpoint(uri).place == known.place:
        return uri
    try:
        handover.moved[side] = await _found(side, uri, record, hint)
    except PgmigError as exc:
        handover.refused[side] = exc
        return ""
    return uri


async def _found(side: str, uri: str, record: Record, hint: str) -> Endpoint:
    recorded = f"the {side} of this migration is recorded as {place(getattr(record, side))}"
    known: DatabaseIdentity | None = getattr(record, f"{side}_identity")
    try:
        identity, found = await _seen(side, uri, record.freeze)
    except PgmigError as exc:
        raise PgmigError(exc.kind, f"{exc.message}; {recorded}", f"{exc.hint}, or {hint}") from exc
    if known is not None and identity != known:
        raise PgmigError(ErrorKind.INVALID_ARGUMENT, f"{place(found)} is another database: {recorded}", hint)
    return found


async def _seen(side: str, uri: str, freeze: Before | None) -> tuple[DatabaseIdentity | None, Endpoint]:
    """The database that `uri` leads to. One that our freeze has closed is looked up from another database
    of its server. The identity is None if that server has no such database."""
    try:
        async with connection(uri, side) as conn:
            return (await read_server(conn, side)).identity, reached(conn, uri)
    except PgmigError as exc:
        if exc.kind is not ErrorKind.DATABASE_CLOSED or side != "source" or freeze is None:
            raise
    conn = await beside(uri, freeze.door)
    try:
        return await identity_of(conn, endpoint(uri).dbname, side), reached(conn, uri)
    finally:
        await conn.close()


async def check_timeline(record: Record, uri: str) -> None:
    """Raises GAP for a source that was promoted: its WAL is not the one that the slot was made in."""
    slot = record.slot
    if slot is None or not slot.timeline:
        return
    # A source that the freeze has closed still shows its timeline from another database.
    replication = await ReplicationConnection.open(uri, record.freeze.door if record.freeze else "")
    try:
        found = await replication.identify_system()
    finally:
        await replication.close()
    if found.timeline != slot.timeline:
        raise PgmigError(
            ErrorKind.GAP,
            f"{place(endpoint(uri))} is on timeline {found.timeline}, but migration {record.migration_id} "
            f"began on {place(record.source)}, timeline {slot.timeline}: the server was promoted since, and "
            "changes may be missing from its WAL",
            f"clean up with `pgmig-cli cleanup --force --id {record.migration_id}`, then begin a new clone; "
            f"or {GO_ON}",
            found.flush_lsn,
        )
