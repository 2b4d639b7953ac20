"""Which tables a migration takes, as its patterns say it of the source's relations: pure decisions.

A partition shares the fate of its root: what chooses or leaves out the root does so with all of its
partitions, and one can be left out of a root that stays. Whoever names a partition alone gets it as
a table of its own. A sequence that a table owns goes with the table. Leaving out wins.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from services.shared.model import TableId
from services.shared.pg.selection.dependencies import Node

TABLE, ROOT, VIEW, MATERIALIZED, SEQUENCE, FOREIGN = "r", "p", "v", "m", "S", "f"


@dataclass(frozen=True, slots=True)
class Relation:
    """kind: pg_class.relkind. parent: of a partition, else 0. owned_by: the table that a sequence
    belongs to, else 0. owner: the role's name."""

    oid: int
    table: TableId
    kind: str
    owner: str
    parent: int = 0
    owned_by: int = 0


@dataclass(frozen=True, slots=True)
class Matches:
    """What the patterns of each option match: OIDs of relations, names of schemas. None: the
    option was not given."""

    include_tables: Collection[int] | None = None
    exclude_tables: Collection[int] = ()
    exclude_table_data: Collection[int] = ()
    include_schemas: Collection[str] | None = None
    exclude_schemas: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """Of pg_constraint. label: its name and tables. partial: it came to a partition with its root's."""

    oid: int
    label: str
    table: int
    references: int
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a migration takes; the default takes everything.

    relations: tables, views and sequences that are made. filled: those whose rows, or value, are
    taken. published: what carries the changes of all filled tables, on a server that publishes
    roots. missing: relations that are not made. dropped: other objects that are not made.
    unattached: the archive's entries that attach partitions and their indexes to parents that are not
    made: kind and name.
    unfilled: materialized views that stay empty. schemas_dropped: among `dropped`. schemas_there:
    the destination has them, so they are not made. warnings: sentences for the timeline.
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
        """Whether an object is made. relation: the name of a table, view or sequence."""
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
        """The table that owns it or itself, and the partitioned tables above."""
        found = [self.relations.get(relation.owned_by, relation)]
        while (above := self.relations.get(found[-1].parent)) is not None:
            found.append(above)
        return found

    def leaves(self, relation: Relation) -> list[Relation]:
        """The tables that hold its rows."""
        if relation.kind != ROOT:
            return [relation]
        return [leaf for child in self.children.get(relation.oid, []) for leaf in self.leaves(child)]


def is_chosen(lineage: Sequence[Relation], matches: Matches) -> bool:
    """Whether a relation of this lineage is made."""
    oids, schemas = [one.oid for one in lineage], [one.table.schema for one in lineage]
    if _any(oids, matches.exclude_tables) or _any(schemas, matches.exclude_schemas):
        return False
    if matches.include_tables is None and matches.include_schemas is None:
        return True
    return _any(oids, matches.include_tables or ()) or _any(schemas, matches.include_schemas or ())


def is_filled(relation: Relation, lineage: Sequence[Relation], matches: Matches) -> bool:
    """Whether a chosen relation's rows, or its value, are taken. As with pg_dump, a sequence whose
    table is made without rows goes on from where it was."""
    by = [relation] if relation.kind == SEQUENCE else lineage
    return not _any([one.oid for one in by], matches.exclude_table_data)


def _any(of: Iterable[int | str], found: Collection[int] | Collection[str]) -> bool:
    return any(one in found for one in of)


def publishable(family: Family, filled: Collection[int], *, roots: bool) -> frozenset[int]:
    """What has to be published for the changes of the filled tables, and of no others: a root
    (where they can be published) if all of its tables are filled, and tables one by one otherwise."""
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
    """Foreign keys of tables that are made which cannot be, since rows that they refer to are not
    taken (rows: any are); and those of tables that are not made, which refer to one that is. What
    an extension brings is none of the family, and as it is."""
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
                lost.append(key)  # pg_dump writes it with the root, which is not made
        elif referenced is not None and not _holds(family, referenced, made, filled, rows=rows):
            lost.append(key)
    return lost, gone


def _holds(
    family: Family, referenced: Relation, made: Collection[int], filled: Collection[int], *, rows: bool
) -> bool:
    """Whether a foreign key to it can stand."""
    return referenced.oid in made and (not rows or _whole(family, referenced, filled))
