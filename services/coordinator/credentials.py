"""The connection strings of a migration: in memory only, and found again after a restart."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.shared.model import Endpoint, PgmigError
from services.shared.pg.preflight import reachable
from services.shared.pg.uri import as_recorded, endpoint, passwordless_uri


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


def of_environment(
    source: Endpoint, destination: Endpoint, source_uri: str | None, destination_uri: str | None
) -> Credentials:
    """The coordinator's own settings, where host, port, database and user match."""
    return Credentials(
        source_uri if source_uri and endpoint(source_uri).place == source.place else "",
        destination_uri if destination_uri and endpoint(destination_uri).place == destination.place else "",
    ).as_recorded(source, destination)


async def of_password_file(source: Endpoint, destination: Endpoint) -> Credentials:
    """Connection strings without passwords, if libpq finds what is missing (or none is needed)."""
    found = Credentials(passwordless_uri(source), passwordless_uri(destination))
    try:
        await reachable(found.source_uri, found.destination_uri)
    except PgmigError:
        return Credentials()
    return found
