"""Which objects of a database can be left out, as far as dependencies allow: pure decisions over pg_depend.

Relations (tables, views, sequences) are selected by name before. This module decides about all other objects.
A selected table needs its types, the functions of its defaults and indexes, the sequences of its defaults,
and their schemas. These are included, whatever schema they are in. Objects that need something that is left
out (views, policies, triggers, functions) are left out too, and are reported. If a table cannot be created
without a relation that is left out, the migration is refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Node = tuple[int, int]
"""An object's address in pg_depend: the OID of its catalog, and its OID in that catalog."""

# OIDs of catalogs, which are the same in every release (catalog/pg_*.h).
CLASS, TYPE, CONSTRAINT, ATTRDEF, STATISTICS = 1259, 1247, 2606, 2604, 3381
TRIGGER, POLICY, RULE, NAMESPACE, EXTENSION = 2620, 3256, 2618, 2615, 3079

_NEEDS = frozenset("nie")
"""Values of pg_depend.deptype for objects without which an object cannot be created. `a` marks the object
that another one belongs to: pg_dump writes a partition or a sequence without its parent."""

_PARTS = frozenset({CLASS, ATTRDEF, CONSTRAINT, STATISTICS})
"""Catalogs of objects that pg_dump creates with the table or type that they belong to."""

_EXTRAS = frozenset({TRIGGER, POLICY, RULE})
"""Catalogs of objects that belong to a table but that the table does not need."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A row of pg_depend: `dependent` depends on `needed`."""

    dependent: Node
    needed: Node
    kind: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """The selection. tables: relations that must be created, and sequences. views: relations that are created
    if possible. left_out: relations that are not created; of these, `sequences` may be created after all.
    schemas: schemas whose other objects are created if possible. None: all objects that are in no schema, or
    in a schema outside `left_out_schemas`. keys: foreign keys, which are decided separately.
    """

    tables: frozenset[int]
    views: frozenset[int]
    left_out: frozenset[int]
    sequences: frozenset[int]
    schemas: frozenset[int] | None
    left_out_schemas: frozenset[int]
    keys: frozenset[int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """kept: everything that is created, except for foreign keys. cut: selected objects that cannot be
    created. lacking: for tables of `Wanted.tables`, a needed relation that is left out."""

    kept: frozenset[Node]
    cut: frozenset[Node]
    lacking: Mapping[int, int]


def decide(nodes: Iterable[Node], edges: Iterable[Edge], wanted: Wanted) -> Outcome:
    graph = _Graph(edges, wanted)
    missing = {(CLASS, oid) for oid in wanted.left_out - wanted.sequences}
    blocked_by = graph.backwards(missing)
    tables = {(CLASS, oid) for oid in wanted.tables}
    soft = {(CLASS, oid) for oid in wanted.views} | graph.extras(tables)
    soft |= {node for node in nodes if graph.wanted_alone(node)}
    cut = {node for node in soft if node in blocked_by}
    lacking = {node[1]: blocked_by[node][1] for node in tables if node in blocked_by}
    return Outcome(frozenset(graph.forwards(tables | (soft - cut))), frozenset(cut), lacking)


class _Graph:
    """The objects that each object needs, and the objects that belong to it."""

    def __init__(self, edges: Iterable[Edge], wanted: Wanted) -> None:
        self._wanted = wanted
        self._needs: defaultdict[Node, set[Node]] = defaultdict(set)
        self._needed_by: defaultdict[Node, set[Node]] = defaultdict(set)
        self._extras: defaultdict[Node, set[Node]] = defaultdict(set)
        self._schema: dict[Node, int] = {}
        self._dependent: set[Node] = set()
        for edge in edges:
            if edge.dependent != edge.needed:
                self._take(edge)

    def _take(self, edge: Edge) -> None:
        dependent, needed = edge.dependent, edge.needed
        if needed[0] == NAMESPACE:
            self._schema[dependent] = needed[1]
        if edge.kind in _NEEDS:
            self._link(dependent, needed)
        if edge.kind == "i" and not self._is_key(dependent):
            self._link(needed, dependent)
        if edge.kind in "aieS" and needed[0] != NAMESPACE:
            self._belongs(dependent, needed, edge.kind)

    def _belongs(self, dependent: Node, owner: Node, kind: str) -> None:
        if kind == "e" or owner[0] in {CLASS, TYPE, CONSTRAINT}:
            self._dependent.add(dependent)
        if kind not in "aS":
            return
        if dependent[0] in _EXTRAS:
            self._extras[owner].add(dependent)
        elif dependent[0] in _PARTS and not self._is_key(dependent) and not self._is_table(dependent):
            self._link(owner, dependent)

    def _link(self, dependent: Node, needed: Node) -> None:
        self._needs[dependent].add(needed)
        self._needed_by[needed].add(dependent)

    def _is_key(self, node: Node) -> bool:
        return node[0] == CONSTRAINT and node[1] in self._wanted.keys

    def _is_table(self, node: Node) -> bool:
        """Whether the node is a selectable relation other than a sequence. Of these relations, only sequences
        belong to another one."""
        wanted = self._wanted
        known = wanted.tables | wanted.views | wanted.left_out
        return node[0] == CLASS and node[1] in known and node[1] not in wanted.sequences

    def extras(self, tables: Iterable[Node]) -> set[Node]:
        return {extra for table in tables for extra in self._extras[table]}

    def wanted_alone(self, node: Node) -> bool:
        """Whether the object is selected by its schema, and not as part of another object."""
        if node in self._dependent or node[0] == CLASS:
            return False
        schema = node[1] if node[0] == NAMESPACE else self._schema.get(node)
        if self._wanted.schemas is not None:
            return schema in self._wanted.schemas
        return schema not in self._wanted.left_out_schemas

    def forwards(self, start: Iterable[Node]) -> set[Node]:
        found, new = set(start), list(start)
        while new:
            for node in self._needs[new.pop()]:
                if node not in found:
                    found.add(node)
                    new.append(node)
        return found

    def backwards(self, start: Iterable[Node]) -> dict[Node, Node]:
        """Everything that needs one of `start`, directly or indirectly, with that one."""
        found = {node: node for node in start}
        new = list(start)
        while new:
            node = new.pop()
            for dependent in self._needed_by[node]:
                if dependent not in found:
                    found[dependent] = found[node]
                    new.append(dependent)
        return found


def fallout(edges: Iterable[Edge], dropped: Iterable[Node]) -> tuple[set[Node], set[Node]]:
    """Returns two sets. The first has the dropped objects and everything that is dropped with them because it
    belongs to them. The second has other objects that need any of these and so prevent the drop (a view
    instead of its rule)."""
    owned, users = defaultdict(set), defaultdict(set)
    views: dict[Node, Node] = {}
    for edge in edges:
        if edge.kind in "aiS":
            owned[edge.needed].add(edge.dependent)
            if edge.kind == "i" and edge.dependent[0] == RULE:
                views[edge.dependent] = edge.needed
        users[edge.needed].add(edge.dependent)
    gone = set(dropped)
    new = list(gone)
    while new:
        for node in owned[new.pop()] - gone:
            gone.add(node)
            new.append(node)
    return gone, {views.get(user, user) for node in gone for user in users[node]} - gone
