"""The table of contents of pg_dump's custom-format archive.

An archive is a list of entries. Each has fields for kind, name, owner, dependencies and SQL. pgmig reads
these fields. It does not search in SQL or in comments, where text written by users may look like anything.

The format is that of PostgreSQL's src/bin/pg_dump (pg_backup_archiver.c, WriteHead and WriteToc;
pg_backup_custom.c, _WriteExtraToc). An integer is a sign byte and intSize bytes, the lowest first. A string
is a length, -1 for none, and bytes. Versions 1.13 (pg_dump 10) to 1.16 (17 and 18) are supported. The
schema's archives contain no rows, so the list must end exactly at the end of the file.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from services.shared.model import ErrorKind, PgmigError

_MAGIC = b"PGDMP"
_CUSTOM = 1
_OLDEST, _NEWEST = (1, 13), (1, 16)
_TABLE_ACCESS_METHODS = (1, 14)
_COMPRESSION_BYTE = (1, 15)
_RELATION_KINDS = (1, 16)
_TIME_FIELDS = 7
_MOST = 1 << 30
"""No length in an archive is larger."""


class Section(IntEnum):
    """Section of an entry. NONE: the same section as the entry before it."""

    NONE = 1
    PRE_DATA = 2
    DATA = 3
    POST_DATA = 4


@dataclass(frozen=True, slots=True)
class ArchiveEntry:
    """dump_id: unique in the archive. catalog, oid: pg_depend's address of the object on the source, 0 if it
    has none. kind: "TABLE", "COMMENT". definition, drop: SQL. access_method: of a table, "" for none.
    relation_kind: pg_class.relkind, "" before pg_dump 17. needs: dump_ids."""

    dump_id: int
    catalog: int
    oid: int
    name: str
    kind: str
    section: Section
    definition: bytes
    drop: bytes
    schema: str
    access_method: str
    relation_kind: str
    owner: str
    needs: tuple[int, ...]

    @property
    def identity(self) -> str:
        """A description for messages: `view app.recent`."""
        return f"{self.kind.lower()} {f'{self.schema}.' if self.schema else ''}{self.name}"


def read_archive(path: Path) -> tuple[ArchiveEntry, ...]:
    """The entries in the archive's order. Raises CORRUPT, and TOOL_MISSING for an unknown version."""
    return parse_archive(path.read_bytes())


def parse_archive(data: bytes) -> tuple[ArchiveEntry, ...]:
    """See read_archive."""
    reader = _Reader(data)
    version, offset_size = _head(reader)
    entries = tuple(_entry(reader, version, offset_size) for _ in range(reader.count()))
    reader.end()
    if len({entry.dump_id for entry in entries}) != len(entries):
        raise _damaged("two entries have one id")
    return entries


def _damaged(why: str) -> PgmigError:
    return PgmigError(
        ErrorKind.CORRUPT, f"pg_dump's archive of the schema is damaged: {why}", "resume: it is made again"
    )


class _Reader:
    """Reads values from a position on. Raises CORRUPT if bytes are missing or invalid."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self.integer_size = 4

    def take(self, size: int) -> bytes:
        if not 0 <= size <= len(self._data) - self._at:
            raise _damaged(f"it ends within a value at byte {self._at}")
        self._at += size
        return self._data[self._at - size : self._at]

    def byte(self) -> int:
        return self.take(1)[0]

    def integer(self) -> int:
        sign = self.byte()
        if sign > 1:
            raise _damaged(f"no integer at byte {self._at - 1}")
        value = int.from_bytes(self.take(self.integer_size), "little")
        return -value if sign else value

    def count(self) -> int:
        value = self.integer()
        if not 0 <= value < _MOST:
            raise _damaged(f"no length at byte {self._at}")
        return value

    def bytes_or_none(self) -> bytes | None:
        length = self.integer()
        if length == -1:
            return None
        if not 0 <= length < _MOST:
            raise _damaged(f"no string at byte {self._at}")
        return self.take(length)

    def text(self) -> str:
        return (self.bytes_or_none() or b"").decode("utf-8", "surrogateescape")

    def number(self) -> int:
        """A number that is written as text, as OIDs are."""
        return _number(self.bytes_or_none())

    def end(self) -> None:
        if self._at != len(self._data):
            raise _damaged("there is data after its list of entries")


def _number(text: bytes | None) -> int:
    if not text or not text.isdigit():
        raise _damaged("a number is missing in its list of entries")
    return int(text)


def _head(reader: _Reader) -> tuple[tuple[int, int], int]:
    """(version, size of an offset)."""
    if reader.take(len(_MAGIC)) != _MAGIC:
        raise _damaged("it does not begin like one")
    version = reader.byte(), reader.byte()
    reader.byte()  # the revision, which does not change the format
    if not _OLDEST <= version <= _NEWEST:
        raise PgmigError(
            ErrorKind.TOOL_MISSING,
            f"pg_dump writes archives of version {version[0]}.{version[1]}, which this release of pgmig does "
            f"not know: it knows {_OLDEST[0]}.{_OLDEST[1]} to {_NEWEST[0]}.{_NEWEST[1]}",
            "use the client programs of PostgreSQL 18 (PGMIG_PG_BINDIR), or a newer release of pgmig",
        )
    reader.integer_size = reader.byte()
    offset_size = reader.byte()
    if not (1 <= reader.integer_size <= 8 and 1 <= offset_size <= 8):
        raise _damaged("its numbers have impossible sizes")
    if reader.byte() != _CUSTOM:
        raise _damaged("it is not of format custom")
    if version >= _COMPRESSION_BYTE:
        reader.byte()
    else:
        reader.integer()
    for _ in range(_TIME_FIELDS):
        reader.integer()
    for _ in ("database", "server version", "pg_dump version"):
        reader.bytes_or_none()
    return version, offset_size


def _entry(reader: _Reader, version: tuple[int, int], offset_size: int) -> ArchiveEntry:
    dump_id = reader.integer()
    if reader.integer():
        raise _damaged("it holds rows")
    catalog, oid = reader.number(), reader.number()
    name, kind, section = reader.text(), reader.text(), reader.integer()
    if section not in set(Section):
        raise _damaged(f"entry {dump_id} is of no section")
    definition, drop = reader.bytes_or_none() or b"", reader.bytes_or_none() or b""
    reader.bytes_or_none()  # the COPY statement
    schema = reader.text()
    reader.text()  # the tablespace
    access_method = reader.text() if version >= _TABLE_ACCESS_METHODS else ""
    relation_kind = reader.integer() if version >= _RELATION_KINDS else 0
    if not 0 <= relation_kind < 128:
        raise _damaged(f"entry {dump_id} is of no kind of relation")
    owner = reader.text()
    reader.bytes_or_none()  # whether it has OIDs: "false"
    needs = []
    while (needed := reader.bytes_or_none()) is not None:
        needs.append(_number(needed))
    reader.take(1 + offset_size)  # the position of its rows, of which there are none
    return ArchiveEntry(
        dump_id,
        catalog,
        oid,
        name,
        kind,
        Section(section),
        definition,
        drop,
        schema,
        access_method,
        chr(relation_kind) if relation_kind else "",
        owner,
        tuple(needs),
    )
