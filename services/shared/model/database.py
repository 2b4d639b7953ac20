"""The identity of a database, independent of the host name or address that is used to connect to it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DatabaseIdentity:
    """A server and its physical copies have the same system identifier. oid: of the database."""

    system_identifier: str
    oid: int
