"""Archives in pg_dump's custom format, built byte by byte, and their entries."""

from __future__ import annotations

from collections.abc import Iterable

from services.shared.pg.schema.archive.entries import ArchiveEntry, Section


def archive_entry(
    dump_id: int,
    kind: str,
    name: str,
    schema: str = "",
    *,
    catalog: int = 0,
    oid: int = 0,
    section: Section = Section.PRE_DATA,
    definition: bytes = b"SELECT;\n",
    drop: bytes = b"",
    owner: str = "me",
    needs: tuple[int, ...] = (),
) -> ArchiveEntry:
    return ArchiveEntry(
        dump_id, catalog, oid, name, kind, section, definition, drop, schema, "", "", owner, needs
    )


def archive(entries: Iterable[ArchiveEntry], version: int = 16) -> bytes:
    """version: the minor version. A relation's kind is written from 16 on, so entries of earlier versions
    have none."""
    listed = list(entries)
    head = b"PGDMP" + bytes([1, version, 0, 4, 8, 1])
    head += b"\0" if version >= 15 else _integer(0)
    head += b"".join(map(_integer, (1, 2, 3, 4, 5, 126, 0)))
    head += b"".join(map(_string, (b"db", b"18.1", b"18.1")))
    return head + _integer(len(listed)) + b"".join(_entry(entry, version) for entry in listed)


def _integer(value: int) -> bytes:
    return bytes([value < 0]) + abs(value).to_bytes(4, "little")


def _string(value: bytes | None) -> bytes:
    return _integer(-1) if value is None else _integer(len(value)) + value


def _entry(entry: ArchiveEntry, version: int) -> bytes:
    parts = [
        _integer(entry.dump_id),
        _integer(0),
        _string(str(entry.catalog).encode()),
        _string(str(entry.oid).encode()),
        _string(entry.name.encode()),
        _string(entry.kind.encode()),
        _integer(entry.section),
        _string(entry.definition),
        _string(entry.drop),
        _string(None),
        _string(entry.schema.encode()),
        _string(None),
        _string(entry.access_method.encode()) if version >= 14 else b"",
        _integer(ord(entry.relation_kind) if entry.relation_kind else 0) if version >= 16 else b"",
        _string(entry.owner.encode()),
        _string(b"false"),
        *(_string(str(needed).encode()) for needed in entry.needs),
        _string(None),
        b"\1" + bytes(8),
    ]
    return b"".join(parts)
