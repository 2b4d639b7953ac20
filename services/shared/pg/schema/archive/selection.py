"""The part of a schema's archive that is restored: pg_dump's arguments and the archive's entries.

pg_dump excludes relations, because it knows their dependent objects. All other objects are excluded from the
restore, by their addresses in the source's catalogs. Comments, privileges and security labels have no
addresses. They name the entry that they need.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from services.shared.model import ErrorKind, PgmigError, TableId
from services.shared.pg.schema.archive.entries import ArchiveEntry
from services.shared.pg.schema.parsing.lexer import tokens
from services.shared.pg.selection.rules import Chosen

_FOLLOWING = frozenset({"COMMENT", "ACL", "SECURITY LABEL"})
_OF_SCHEMA = "SCHEMA "
_TAKING_ROWS = frozenset({"TABLE", "SEQUENCE", "SCHEMA"})
_VIEWS = frozenset({"VIEW", "MATERIALIZED VIEW"})
_VIEW_RULE = " _RETURN"
"""Suffix of the rule that defines a view, if pg_dump writes it as a separate entry."""

_LONGEST = 30_000
"""Maximum number of characters of one pattern. Linux accepts arguments of 128 KiB."""


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
    """dump_ids of the entries that are not restored. rows=False: materialized views stay empty."""
    dropped: set[int] = set()
    with_server = False
    for entry in entries:
        if entry.kind in _FOLLOWING:
            gone = _follows_out(entry, dropped, chosen)
        elif entry.kind == "USER MAPPING":  # names nothing that it needs: pg_dump writes it after its server
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
    """Whether it is left out with its object. For a schema the name decides: public has no entry, and a
    schema that the destination already has still gets its comments and privileges."""
    if not entry.schema and entry.name.startswith(_OF_SCHEMA):
        (name,) = tokens(entry.name.removeprefix(_OF_SCHEMA).encode("utf-8", "surrogateescape"))
        return name.name in chosen.schemas_dropped
    return not set(entry.needs).isdisjoint(dropped)


def skipped(entries: Sequence[ArchiveEntry], names: Iterable[str]) -> frozenset[int]:
    """dump_ids of the objects that the operator skips, and of all objects that need them.

    Raises INVALID_ARGUMENT for a name that no entry has, and if a table would be among them: tables are
    excluded by patterns, which also apply to the copy and the publication.
    """
    wanted = set(names)
    unknown = wanted - {entry.identity for entry in entries}
    if unknown:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"the schema holds no {', '.join(sorted(unknown))}, which --skip-object names",
            "give the name as the error showed it, in quotation marks of the shell",
        )
    out = {entry.dump_id for entry in entries if entry.identity in wanted}
    out |= _views_of(entries, out)
    out |= _needing(entries, out)
    tables = [entry.identity for entry in entries if entry.dump_id in out and entry.kind in _TAKING_ROWS]
    if tables:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"--skip-object cannot leave out {', '.join(tables)}",
            "abort this migration, and begin another with --exclude-table for the tables that need it",
        )
    return frozenset(out)


def absent(entries: Sequence[ArchiveEntry], there: Collection[TableId]) -> frozenset[int]:
    """dump_ids of tables that the destination does not have, or no longer has, and of all entries that need
    them. there: the tables that it has."""
    out = {e.dump_id for e in entries if e.kind == "TABLE" and TableId(e.schema, e.name) not in there}
    return frozenset(out | _needing(entries, out))


def _needing(entries: Sequence[ArchiveEntry], out: set[int]) -> set[int]:
    """The entries in `out` and all that need one of them, directly or indirectly."""
    found = set(out)
    while more := {e.dump_id for e in entries if e.dump_id not in found and not found.isdisjoint(e.needs)}:
        found |= more
    return found


def _views_of(entries: Sequence[ArchiveEntry], out: Iterable[int]) -> set[int]:
    """Views whose rule is left out. Without it they are placeholders that show no rows."""
    rules = {
        (entry.schema, entry.name.removesuffix(_VIEW_RULE))
        for entry in entries
        if entry.dump_id in set(out) and entry.kind == "RULE" and entry.name.endswith(_VIEW_RULE)
    }
    return {e.dump_id for e in entries if e.kind in _VIEWS and (e.schema, e.name) in rules}
