"""The part of a schema's archive that is restored: pg_dump's arguments and the archive's entries.

Relations are left out by pg_dump, which knows what belongs to them. Everything else is left out of
what is restored, by the addresses that the source's catalogs have for it. Comments, privileges and
security labels have none; they name the entry that they need.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from services.shared.model import TableId
from services.shared.pg.archive import ArchiveEntry
from services.shared.pg.choice import Chosen
from services.shared.pg.lexer import tokens

_FOLLOWING = frozenset({"COMMENT", "ACL", "SECURITY LABEL"})
_OF_SCHEMA = "SCHEMA "
_LONGEST = 30_000
"""Characters of one pattern; Linux takes arguments of 128 KiB."""


def exclusions(relations: Iterable[TableId]) -> Iterator[str]:
    """Patterns for pg_dump that match these relations and no others."""
    by_schema: dict[str, list[str]] = {}
    for relation in relations:
        by_schema.setdefault(relation.schema, []).append(_quoted(relation.name))
    for schema, names in by_schema.items():
        part: list[str] = []
        for name in names:
            if part and sum(map(len, part)) + len(name) > _LONGEST:
                yield f"{_quoted(schema)}.({'|'.join(part)})"
                part = []
            part.append(name)
        yield f"{_quoted(schema)}.({'|'.join(part)})"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def left_out(entries: Iterable[ArchiveEntry], chosen: Chosen, *, rows: bool) -> frozenset[int]:
    """dump_ids of what is not restored. rows=False: materialized views stay empty."""
    dropped: set[int] = set()
    with_server = False
    for entry in entries:
        if entry.kind in _FOLLOWING:
            gone = _follows_out(entry, dropped, chosen)
        elif entry.kind == "USER MAPPING":  # names nothing that it needs: pg_dump puts it behind its server
            gone = with_server
        else:
            gone = _is_left_out(entry, chosen, rows=rows)
        if entry.kind == "SERVER":
            with_server = gone
        if gone:
            dropped.add(entry.dump_id)
    return frozenset(dropped)


def _is_left_out(entry: ArchiveEntry, chosen: Chosen, *, rows: bool) -> bool:
    if entry.kind == "SCHEMA" and entry.name in chosen.schemas_there:
        return True
    if entry.kind == "MATERIALIZED VIEW DATA":
        return not rows or entry.oid in chosen.unfilled
    attached = entry.kind, TableId(entry.schema, entry.name)
    return (entry.catalog, entry.oid) in chosen.dropped or attached in chosen.unattached


def _follows_out(entry: ArchiveEntry, dropped: Iterable[int], chosen: Chosen) -> bool:
    """Of a schema: by its name, since public has no entry, and one that the destination has gets them."""
    if not entry.schema and entry.name.startswith(_OF_SCHEMA):
        (name,) = tokens(entry.name.removeprefix(_OF_SCHEMA).encode("utf-8", "surrogateescape"))
        return name.name in chosen.schemas_dropped
    return not set(entry.needs).isdisjoint(dropped)
