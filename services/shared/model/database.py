"""Which database something is, whatever its host or address is called."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DatabaseIdentity:
    """A server and its physical copies share the system identifier. oid: of the database."""

    system_identifier: str
    oid: int
