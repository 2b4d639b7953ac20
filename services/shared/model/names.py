"""Names of what pgmig creates: a migration has an id, and each of its pipelines has an identity.

A pipeline replicates in one direction: forward from the migration's source to its destination, or in reverse.
Slot, publications, origin, streams, subjects and rows of bookkeeping are named by the pipeline, so that both
pipelines of a migration can use the same servers, the same NATS account and the same workers.

PostgreSQL allows a-z, 0-9 and _ in the name of a slot, and 63 bytes. A migration's id begins with a letter
and may contain any of these characters. So what distinguishes one name from another comes before the id and
begins with a second underscore. No id begins so, and therefore no two pipelines share a name.

    pgmig_shop                     slot, publication and origin of the forward pipeline of migration `shop`
    pgmig__reverse_shop            the same of its reverse pipeline
    pgmig__insert_shop             publication of tables for which only INSERT and TRUNCATE are published
    pgmig__reverse__insert_shop    the same of its reverse pipeline
    pgmig__copy_shop               temporary slot that exports a snapshot
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
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
    def forward(self) -> PipelineId:
        return PipelineId(self, Direction.FORWARD)

    @property
    def reverse(self) -> PipelineId:
        return PipelineId(self, Direction.REVERSE)


class Direction(StrEnum):
    """forward: from the migration's source to its destination. reverse: back."""

    FORWARD = "forward"
    REVERSE = "reverse"

    @property
    def opposite(self) -> Direction:
        return Direction.REVERSE if self is Direction.FORWARD else Direction.FORWARD


@dataclass(frozen=True, slots=True, order=True)
class PipelineId:
    """One direction of one migration. As text, in rows and messages: `shop/forward`, `shop/reverse`."""

    migration: MigrationId
    direction: Direction

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `str`. Raises PgmigError(INVALID_ARGUMENT)."""
        migration, _, direction = text.partition("/")
        if direction not in {known.value for known in Direction}:
            raise PgmigError(
                ErrorKind.INVALID_ARGUMENT,
                f"pipeline {text!r} is not valid",
                "name it by the id of its migration and its direction, like 'shop/forward' or 'shop/reverse'",
            )
        return cls(MigrationId.parse(migration), Direction(direction))

    def __str__(self) -> str:
        return f"{self.migration}/{self.direction}"

    @property
    def opposite(self) -> PipelineId:
        """The pipeline of the same migration in the other direction."""
        return self.migration.reverse if self.direction is Direction.FORWARD else self.migration.forward

    @property
    def publisher(self) -> str:
        """The side of the migration whose changes are replicated: "source" or "destination"."""
        return "source" if self.direction is Direction.FORWARD else "destination"

    @property
    def subscriber(self) -> str:
        """The other side."""
        return "destination" if self.direction is Direction.FORWARD else "source"

    def _postgres_name(self, use: str = "") -> str:
        marks = "".join(f"_{mark}_" for mark in (_MARK[self.direction], use) if mark)
        return f"pgmig_{marks}{self.migration}"

    @property
    def slot(self) -> str:
        return self._postgres_name()

    @property
    def snapshot_slot(self) -> str:
        """Of a temporary slot, for a snapshot with a known LSN."""
        return self._postgres_name("copy")

    @property
    def publication(self) -> str:
        return self._postgres_name()

    @property
    def inserts_publication(self) -> str:
        """Of tables whose UPDATE and DELETE cannot be replicated."""
        return self._postgres_name("insert")

    @property
    def origin(self) -> str:
        return self._postgres_name()

    def _stream(self, use: str) -> str:
        parts = ("PGMIG", _MARK[self.direction].upper(), use, self.migration.value)
        return "_".join(part for part in parts if part)

    @property
    def change_stream(self) -> str:
        return self._stream("CHANGES")

    @property
    def copy_stream(self) -> str:
        return self._stream("COPY")

    def _subject(self, use: str) -> str:
        parts = ("pgmig", self.migration.value, _MARK[self.direction], use)
        return ".".join(part for part in parts if part)

    def change_subject(self, timeline: int) -> str:
        """timeline: of the publisher whose changes it carries."""
        return f"{self._subject('changes')}.{timeline}"

    @property
    def copy_subject(self) -> str:
        return self._subject("copy")

    @property
    def flush_subject(self) -> str:
        return self._subject("flushed")


_MARK: dict[Direction, str] = {Direction.FORWARD: "", Direction.REVERSE: "reverse"}
"""In the names of each direction: the forward pipeline has the plain ones."""
