"""Which tables a migration includes, from its patterns and the source's relations: pure decisions.

A partition is treated like its root: a pattern that selects or excludes the root applies to all of its
partitions. A partition can also be excluded from a root that is included. A pattern that names only a
partition selects it as an ordinary table. A sequence that a table owns is treated like the table. Exclusion
takes precedence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from services.shared.model import TableId
from services.shared.pg.selection.dependencies import Node

TABLE, ROOT, VIEW, MATERIALIZED, SEQUENCE, FOREIGN = "r", "p", "v", "m", "S", "f"


@dataclass(frozen=True, slots=True)
class Relation:
    """kind: pg_class.relkind. parent: of a partition, otherwise 0. owned_by: the table that a sequence
    belongs to, otherwise 0. owner: the role's name."""

    oid: int
    table: TableId
    kind: str
    owner: str
    parent: int = 0
    owned_by: int = 0


@dataclass(frozen=True, slots=True)
class Matches:
    """The matches of each option's patterns: OIDs of relations, names of schemas. None: the option was not
    given."""

    include_tables: Collection[int] | None = None
    exclude_tables: Collection[int] = ()
    exclude_table_data: Collection[int] = ()
    include_schemas: Collection[str] | None = None
    exclude_schemas: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A row of pg_constraint. label: its name and tables. partial: a partition inherited it from its root."""

    oid: int
    label: str
    table: int
    references: int
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Chosen:
    """The objects that a migration includes. The default includes everything.

    relations: tables, views and sequences that are created. filled: those whose rows, or value, are copied.
    published: the tables to publish for the changes of all filled tables, on a server that can publish roots.
    missing: relations that are not created. dropped: other objects that are not created. unattached: the
    archive's entries that attach partitions and their indexes to parents that are not created: kind and name.
    unfilled: materialized views that stay empty. schemas_dropped: those among `dropped`. schemas_there:
    schemas that the destination already has, so they are not created. warnings: sentences for the event log.
    """

    everything: bool = True
    relations: frozenset[TableId] = frozenset()
    filled: frozenset[TableId] = frozenset()
    published: frozenset[TableId] = frozenset()
    missing: tuple[TableId, ...] = ()
    dropped: frozenset[Node] = frozenset()
    unattached: frozenset[tuple[str, TableId]] = frozenset()
    unfilled: frozenset[int] = frozenset()
    schemas_dropped: tuple[str, ...] = ()
    schemas_there: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def makes(self, table: TableId) -> bool:
        return self.everything or table in self.relations

    def restores(self, node: Node, relation: TableId | None) -> bool:
        """Whether an object is created. relation: the name of a table, view or sequence."""
        return self.makes(relation) if relation is not None else node not in self.dropped

    def fills(self, table: TableId) -> bool:
        return self.everything or table in self.filled

    def publishes(self, table: TableId) -> bool:
        return self.everything or table in self.published


EVERYTHING = Chosen()


@dataclass(slots=True)
class Family:
    """The relations and how they belong together."""

    relations: Mapping[int, Relation]
    children: dict[int, list[Relation]] = field(default_factory=dict)

    @classmethod
    def of(cls, relations: Iterable[Relation]) -> Family:
        family = cls({relation.oid: relation for relation in relations})
        for relation in family.relations.values():
            if relation.parent:
                family.children.setdefault(relation.parent, []).append(relation)
        return family

    def lineage(self, relation: Relation) -> list[Relation]:
        """The relation, or the table that owns it, and the partitioned tables above it."""
        found = [self.relations.get(relation.owned_by, relation)]
        while (above := self.relations.get(found[-1].parent)) is not None:
            found.append(above)
        return found

    def leaves(self, relation: Relation) -> list[Relation]:
        """The tables that store its rows."""
        if relation.kind != ROOT:
            return [relation]
        return [leaf for child in self.children.get(relation.oid, []) for leaf in self.leaves(child)]


def is_chosen(lineage: Sequence[Relation], matches: Matches) -> bool:
    """Whether a relation of this lineage is created."""
    oids, schemas = [one.oid for one in lineage], [one.table.schema for one in lineage]
    if _any(oids, matches.exclude_tables) or _any(schemas, matches.exclude_schemas):
        return False
    if matches.include_tables is None and matches.include_schemas is None:
        return True
    return _any(oids, matches.include_tables or ()) or _any(schemas, matches.include_schemas or ())


def is_filled(relation: Relation, lineage: Sequence[Relation], matches: Matches) -> bool:
    """Whether a selected relation's rows, or its value, are copied. As with pg_dump, a sequence whose table
    is created without rows still gets the source's value."""
    by = [relation] if relation.kind == SEQUENCE else lineage
    return not _any([one.oid for one in by], matches.exclude_table_data)


def _any(of: Iterable[int | str], found: Collection[int] | Collection[str]) -> bool:
    return any(one in found for one in of)


def publishable(family: Family, filled: Collection[int], *, roots: bool) -> frozenset[int]:
    """The tables to publish for the changes of the filled tables, and of no others: a root (if the server can
    publish roots) if all of its tables are filled, otherwise its tables one by one."""
    found: set[int] = set()
    for relation in family.relations.values():
        root = family.lineage(relation)[-1]
        if roots and root.kind == ROOT and _whole(family, root, filled):
            found.add(root.oid)
        elif relation.kind == TABLE and relation.oid in filled:
            found.add(relation.oid)
    return frozenset(found)


def _whole(family: Family, relation: Relation, filled: Collection[int]) -> bool:
    return relation.oid in filled and all(leaf.oid in filled for leaf in family.leaves(relation))


def cut_keys(
    family: Family, keys: Iterable[ForeignKey], made: Collection[int], filled: Collection[int], *, rows: bool
) -> tuple[list[ForeignKey], list[ForeignKey]]:
    """Two lists of foreign keys that are not created. The first has keys of created tables, because the
    referenced rows are not copied (rows: any rows are copied). The second has keys of tables that are not
    created, which refer to a created table. Tables of extensions are not in the family, and their keys are
    not changed."""
    lost, gone = [], []
    for key in keys:
        table, referenced = family.relations.get(key.table), family.relations.get(key.references)
        if table is None:
            continue
        if key.table not in made:
            if key.references in made and not key.partial:
                gone.append(key)
        elif key.partial:
            if not any(above.oid in made for above in family.lineage(table)[1:]):
                lost.append(key)  # pg_dump writes it with the root, which is not created
        elif referenced is not None and not _holds(family, referenced, made, filled, rows=rows):
            lost.append(key)
    return lost, gone


def _holds(
    family: Family, referenced: Relation, made: Collection[int], filled: Collection[int], *, rows: bool
) -> bool:
    """Whether a foreign key to this table can be created."""
    return referenced.oid in made and (not rows or _whole(family, referenced, filled))
