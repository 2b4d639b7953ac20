"""What patterns and dependencies leave of a database, decided without one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.shared.model import TableId
from services.shared.pg.schema.archive.selection import exclusions, left_out
from services.shared.pg.selection.dependencies import (
    CLASS,
    NAMESPACE,
    RULE,
    TRIGGER,
    TYPE,
    Edge,
    Wanted,
    decide,
    fallout,
)
from services.shared.pg.selection.rules import (
    Chosen,
    Family,
    ForeignKey,
    Matches,
    Relation,
    cut_keys,
    is_chosen,
    is_filled,
    publishable,
)
from tests.support.schema.archives import archive_entry

PROC = 1255
ROOT = Relation(1, TableId("app", "root"), "p", "me")
OLD = Relation(2, TableId("app", "old"), "r", "me", parent=1)
NEW = Relation(3, TableId("cold", "new"), "r", "me", parent=1)
PLAIN = Relation(4, TableId("app", "plain"), "r", "me")
NUMBERS = Relation(5, TableId("app", "plain_id_seq"), "S", "me", owned_by=4)
FAMILY = Family.of([ROOT, OLD, NEW, PLAIN, NUMBERS])


def chosen(matches: Matches) -> set[int]:
    return {one.oid for one in FAMILY.relations.values() if is_chosen(FAMILY.lineage(one), matches)}


@pytest.mark.parametrize(
    ("matches", "found"),
    [
        (Matches(), {1, 2, 3, 4, 5}),
        (Matches(include_tables={1}), {1, 2, 3}),
        (Matches(include_tables={2}), {2}),
        (Matches(include_tables={4}), {4, 5}),
        (Matches(include_tables={5}), set()),
        (Matches(include_tables=set()), set()),
        (Matches(exclude_tables={1}), {4, 5}),
        (Matches(exclude_tables={2}), {1, 3, 4, 5}),
        (Matches(exclude_tables={4}), {1, 2, 3}),
        (Matches(include_schemas={"app"}), {1, 2, 3, 4, 5}),
        (Matches(include_schemas={"cold"}), {3}),
        (Matches(exclude_schemas={"cold"}), {1, 2, 4, 5}),
        (Matches(include_tables={1, 4}, exclude_schemas={"cold"}), {1, 2, 4, 5}),
        (Matches(include_schemas={"app"}, exclude_tables={4}), {1, 2, 3}),
    ],
)
def test_partitions_go_with_their_root_and_sequences_with_their_table(
    matches: Matches, found: set[int]
) -> None:
    assert chosen(matches) == found


@pytest.mark.parametrize(
    ("without", "roots", "published"),
    [
        (set(), True, {1, 4}),
        (set(), False, {2, 3, 4}),
        ({2}, True, {3, 4}),
        ({1, 2, 3}, True, {4}),
        ({4}, True, {1}),
    ],
)
def test_a_root_is_published_with_all_of_its_tables_or_they_are_one_by_one(
    without: set[int], roots: bool, published: set[int]
) -> None:
    assert publishable(FAMILY, {1, 2, 3, 4, 5} - without, roots=roots) == published


def test_a_table_without_rows_leaves_its_sequence_its_value() -> None:
    matches = Matches(exclude_table_data={1, 4})
    filled = {one.oid for one in FAMILY.relations.values() if is_filled(one, FAMILY.lineage(one), matches)}
    assert filled == {5}
    assert not is_filled(NUMBERS, FAMILY.lineage(NUMBERS), Matches(exclude_table_data={5}))


def test_a_key_to_rows_that_are_left_out_is_cut() -> None:
    to_root, to_plain = ForeignKey(10, "a", 4, 1), ForeignKey(11, "b", 2, 4)
    every = {1, 2, 3, 4}
    assert cut_keys(FAMILY, [to_root, to_plain], every, every, rows=True) == ([], [])
    assert cut_keys(FAMILY, [to_root], every, every - {3}, rows=True) == ([to_root], [])
    assert cut_keys(FAMILY, [to_root], every, every - {3}, rows=False) == ([], [])
    assert cut_keys(FAMILY, [to_plain], {1, 2, 3}, {1, 2, 3}, rows=True) == ([to_plain], [])
    assert cut_keys(FAMILY, [to_plain], {4}, {4}, rows=True) == ([], [to_plain])


def test_a_key_that_came_with_a_root_is_lost_to_a_partition_on_its_own() -> None:
    inherited = ForeignKey(12, "c", 2, 4, partial=True)
    assert cut_keys(FAMILY, [inherited], {1, 2, 3, 4}, {1, 2, 3, 4}, rows=True) == ([], [])
    assert cut_keys(FAMILY, [inherited], {2, 4}, {2, 4}, rows=True) == ([inherited], [])


WANTED = Wanted(
    tables=frozenset({1}),
    views=frozenset({7}),
    left_out=frozenset({2, 5}),
    sequences=frozenset({5}),
    schemas=None,
    left_out_schemas=frozenset({200}),
    keys=frozenset(),
)
T1, T2, VIEW, SEQ = (CLASS, 1), (CLASS, 2), (CLASS, 7), (CLASS, 5)
MOOD, FUNC, USER_FUNC, TRIG = (TYPE, 20), (PROC, 30), (PROC, 31), (TRIGGER, 40)
KEPT_SCHEMA, LEFT_SCHEMA = (NAMESPACE, 100), (NAMESPACE, 200)


def test_a_table_brings_what_it_needs_from_a_schema_that_is_left_out() -> None:
    edges = [
        Edge(T1, KEPT_SCHEMA, "n"),
        Edge(T1, MOOD, "n"),
        Edge(MOOD, LEFT_SCHEMA, "n"),
        Edge(FUNC, LEFT_SCHEMA, "n"),
        Edge((2604, 50), T1, "a"),
        Edge((2604, 50), SEQ, "n"),
        Edge(SEQ, T2, "a"),
    ]
    outcome = decide({edge.dependent for edge in edges}, edges, WANTED)
    assert {T1, MOOD, LEFT_SCHEMA, SEQ} <= outcome.kept
    assert not {FUNC, T2} & outcome.kept
    assert not outcome.cut
    assert not outcome.lacking


def test_what_needs_a_table_that_is_left_out_is_cut() -> None:
    rule = (RULE, 60)
    edges = [
        Edge(rule, VIEW, "i"),
        Edge(rule, T2, "n"),
        Edge(FUNC, KEPT_SCHEMA, "n"),
        Edge(FUNC, (TYPE, 21), "n"),
        Edge((TYPE, 21), T2, "i"),
        Edge(USER_FUNC, FUNC, "n"),
        Edge(TRIG, T1, "a"),
        Edge(TRIG, FUNC, "n"),
    ]
    outcome = decide({edge.dependent for edge in edges}, edges, WANTED)
    assert outcome.cut == {VIEW, FUNC, USER_FUNC, TRIG}
    assert T1 in outcome.kept
    assert not outcome.lacking


def test_a_table_that_inherits_from_one_left_out_cannot_be_made() -> None:
    outcome = decide({T1}, [Edge(T1, T2, "n")], WANTED)
    assert outcome.lacking == {1: 2}
    partition = decide({T1}, [Edge(T1, T2, "a")], WANTED)
    assert not partition.lacking


def test_included_tables_bring_nothing_that_they_do_not_need() -> None:
    edges = [Edge(FUNC, KEPT_SCHEMA, "n"), Edge(T1, KEPT_SCHEMA, "n")]
    outcome = decide({T1, FUNC}, edges, replace(WANTED, schemas=frozenset()))
    assert FUNC not in outcome.kept
    assert KEPT_SCHEMA in outcome.kept
    outcome = decide({T1, FUNC}, edges, replace(WANTED, schemas=frozenset({100})))
    assert FUNC in outcome.kept


def test_an_object_that_depends_on_a_dropped_one_is_a_conflict() -> None:
    edges = [Edge((RULE, 60), VIEW, "i"), Edge((RULE, 60), T2, "n"), Edge((CLASS, 9), T1, "a")]
    assert fallout(edges, {T1}) == ({T1, (CLASS, 9)}, set())
    assert fallout(edges, {T1, T2}) == ({T1, T2, (CLASS, 9)}, {VIEW})
    assert fallout(edges, {T2, VIEW}) == ({T2, VIEW, (RULE, 60)}, set())


ENTRIES = (
    archive_entry(10, "SCHEMA", "app", catalog=2615, oid=100),
    archive_entry(11, "COMMENT", "SCHEMA app", needs=(10,)),
    archive_entry(12, "ACL", "SCHEMA public", needs=(99,)),
    archive_entry(13, "FUNCTION", "f()", "app", catalog=1255, oid=30),
    archive_entry(14, "COMMENT", "FUNCTION f()", "app", needs=(13,)),
    archive_entry(15, "ACL", "FUNCTION f()", "app", needs=(13,)),
    archive_entry(16, "TABLE", "t", "app", catalog=1259, oid=1),
    archive_entry(17, "COMMENT", "TABLE t", "app", needs=(16,)),
    archive_entry(18, "TABLE ATTACH", "part", "app"),
    archive_entry(19, "MATERIALIZED VIEW DATA", "counted", "app", oid=1),
    archive_entry(20, "SERVER", "s", catalog=1417, oid=70),
    archive_entry(21, "COMMENT", "SERVER s", needs=(20,)),
    archive_entry(22, "USER MAPPING", "USER MAPPING me SERVER s"),
    archive_entry(23, "COMMENT", 'SCHEMA "SCHEMA app"', needs=(98,)),
)
ALL = set(range(10, 24))


def kept(chosen: Chosen, *, rows: bool = True) -> set[int]:
    return ALL - left_out(ENTRIES, chosen, rows=rows)


def test_comments_and_privileges_go_with_their_object() -> None:
    assert kept(Chosen(dropped=frozenset({(1255, 30)}))) == ALL - {13, 14, 15}
    dropped = Chosen(dropped=frozenset({(2615, 100)}), schemas_dropped=("app",))
    assert kept(dropped) == ALL - {10, 11}
    assert kept(Chosen(schemas_dropped=("SCHEMA app",))) == ALL - {23}
    assert kept(Chosen(schemas_there=("app",))) == ALL - {10}
    assert kept(Chosen(unattached=frozenset({("TABLE ATTACH", TableId("app", "part"))}))) == ALL - {18}
    assert kept(Chosen(dropped=frozenset({(1417, 70)}))) == ALL - {20, 21, 22}


def test_without_rows_materialized_views_stay_empty() -> None:
    assert kept(Chosen(), rows=False) == ALL - {19}
    assert kept(Chosen(unfilled=frozenset({1}))) == ALL - {19}


def test_exclusions_name_relations_literally_and_in_arguments_of_bounded_length() -> None:
    assert list(exclusions([TableId("a", 'x"y'), TableId("b", "*"), TableId("a", "Z")])) == [
        '"a".("x""y"|"Z")',
        '"b".("*")',
    ]
    many = list(exclusions([TableId("a", f"{number:060}") for number in range(2000)]))
    assert len(many) > 1
    assert all(len(pattern) < 40_000 for pattern in many)
    assert sum(pattern.count("|") + 1 for pattern in many) == 2000
