"""The part of a schema's archive that is restored: pg_dump's arguments and pg_restore's list.

Relations are left out by pg_dump, which knows what belongs to them. Everything else is left out of
the list (`pg_restore --list`), whose lines name objects by the OIDs that the source's catalogs have
for them: `215; 1255 16435 FUNCTION public f(integer) owner`. Comments, privileges and security
labels have none; they follow their object.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from services.shared.model import TableId
from services.shared.pg.choice import Chosen

_LINE = re.compile(r"(\d+); (\d+) (\d+) (.*)")
_FOLLOWING = ("COMMENT ", "ACL ", "SECURITY LABEL ", "USER MAPPING ")
_OF_SCHEMA = re.compile(r"(?:COMMENT|ACL|SECURITY LABEL) - SCHEMA (.*)")
_SCHEMA = "SCHEMA - "
_FILLING = "MATERIALIZED VIEW DATA "
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


def filtered(listed: str, chosen: Chosen, *, rows: bool) -> str:
    """The list without what is not restored. rows=False: materialized views stay empty."""
    kept, dropping = [], False
    for line in listed.splitlines():
        entry = _LINE.fullmatch(line)
        if entry is None:
            continue
        node, text = (int(entry[2]), int(entry[3])), entry[4]
        if of_schema := _OF_SCHEMA.match(text):
            # Those of public come without an entry of their schema before them.
            dropping = _names_one_of(of_schema[1], chosen.schemas_dropped)
        elif not (node == (0, 0) and text.startswith(_FOLLOWING)):
            dropping = node in chosen.dropped or text in chosen.unattached
            if text.startswith(_SCHEMA):
                there = _names_one_of(text.removeprefix(_SCHEMA), chosen.schemas_there)
                dropping = dropping or there
            if text.startswith(_FILLING):
                dropping = not rows or node[1] in chosen.unfilled
        if not dropping:
            kept.append(line)
    return "\n".join([*kept, ""])


def _names_one_of(text: str, schemas: Iterable[str]) -> bool:
    """text: a schema's name, quoted if it has to be, and its owner."""
    return any(text.startswith((f"{name} ", f"{_quoted(name)} ")) for name in schemas)
