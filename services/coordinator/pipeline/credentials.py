"""The connection strings of a migration: in memory only, and found again after a restart."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from services.coordinator.migration.record import Record
from services.shared.model import Endpoint, ErrorKind, PgmigError
from services.shared.pg.preflight.checks import reachable
from services.shared.pg.session.uri import as_recorded, endpoint, passwordless_uri


@dataclass(frozen=True, slots=True)
class Credentials:
    """URIs with passwords; "" while unknown."""

    source_uri: str = field(default="", repr=False)
    destination_uri: str = field(default="", repr=False)

    @property
    def complete(self) -> bool:
        return bool(self.source_uri and self.destination_uri)

    def filled_from(self, other: Credentials) -> Credentials:
        """What is missing here, taken from `other`."""
        return Credentials(self.source_uri or other.source_uri, self.destination_uri or other.destination_uri)

    def as_recorded(self, source: Endpoint, destination: Endpoint) -> Credentials:
        """With what a connection string lacks of the recorded parameters, if it leads to the same place."""

        def completed(uri: str, where: Endpoint) -> str:
            return as_recorded(uri, where) if uri and endpoint(uri).place == where.place else uri

        return Credentials(completed(self.source_uri, source), completed(self.destination_uri, destination))


NOTHING_GIVEN = Credentials()
OPTIONS = {"source": "--source-uri", "destination": "--dest-uri"}
"""Of the command line, by side."""


def of_environment(
    source: Endpoint, destination: Endpoint, source_uri: str | None, destination_uri: str | None
) -> Credentials:
    """The coordinator's own settings, where host, port, database and user match."""
    return Credentials(
        source_uri if source_uri and endpoint(source_uri).place == source.place else "",
        destination_uri if destination_uri and endpoint(destination_uri).place == destination.place else "",
    ).as_recorded(source, destination)


@dataclass(frozen=True, slots=True)
class Found:
    """credentials: those that were found. refused: by side ("source", "destination"), why another one was
    not, as its server or the network says it."""

    credentials: Credentials = NOTHING_GIVEN
    refused: dict[str, PgmigError] = field(default_factory=dict)


async def of_password_file(source: Endpoint, destination: Endpoint) -> Found:
    """Connection strings without passwords, where libpq finds what is missing (or none is needed). Each
    side is tried by itself, so that one that is down does not hide the other one's."""
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
    if record.freeze is not None and "source" in missing:
        text += "; the source is closed to writers until then"
    down = [error.message for error in refused.values() if error.kind is ErrorKind.UNREACHABLE]
    return "; ".join([text, *down])
