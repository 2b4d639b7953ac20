"""Names of the objects that a migration creates. All of them are derived from its id.

The id is part of the names of the replication slot, publication, origin, stream and subjects, so it must
be valid in all of them. PostgreSQL slot names allow a-z, 0-9 and _ (63 bytes).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from services.shared.model.errors import ErrorKind, PgmigError

_ID = re.compile(r"[a-z][a-z0-9_]{0,39}")

BOOKKEEPING_SCHEMA = "pgmig"
"""Schema on the destination for the copy ledger, and for progress if replication origins are not allowed."""

MESSAGE_PREFIX = "pgmig"
"""Prefix of the logical messages (sentinels) that pgmig writes into the source's WAL."""

STATE_BUCKET = "pgmig_state"
"""JetStream key-value bucket with one key per migration."""


@dataclass(frozen=True, slots=True, order=True)
class MigrationId:
    """An id: a lower-case letter, then up to 39 of a-z, 0-9 and _."""

    value: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises PgmigError(INVALID_ARGUMENT) for an id that is not valid in all names."""
        if not _ID.fullmatch(text):
            raise PgmigError(
                ErrorKind.INVALID_ARGUMENT,
                f"migration id {text!r} is not valid",
                "use a lower-case letter followed by up to 39 of a-z, 0-9 and _",
            )
        return cls(text)

    def __str__(self) -> str:
        return self.value

    @property
    def slot(self) -> str:
        return f"pgmig_{self.value}"

    @property
    def publication(self) -> str:
        return f"pgmig_{self.value}"

    @property
    def inserts_publication(self) -> str:
        """Publication for tables whose UPDATE and DELETE cannot be replicated."""
        return f"pgmig_{self.value}_inserts"

    @property
    def origin(self) -> str:
        return f"pgmig_{self.value}"

    @property
    def change_stream(self) -> str:
        return f"PGMIG_CHANGES_{self.value}"

    @property
    def change_subject(self) -> str:
        return f"pgmig.{self.value}.changes"

    @property
    def copy_stream(self) -> str:
        return f"PGMIG_COPY_{self.value}"

    @property
    def copy_subject(self) -> str:
        return f"pgmig.{self.value}.copy"

    @property
    def flush_subject(self) -> str:
        return f"pgmig.{self.value}.flushed"
