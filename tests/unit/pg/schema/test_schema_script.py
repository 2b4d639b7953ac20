"""The post-data section divided: what needs one table alone, what several, and what becomes two steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.shared.model import PgmigError, TableId
from services.shared.pg.schema.archive.restore_sql import RestoreEntry, Script
from services.shared.pg.schema.dump_tools import DumpTools, choose_tools
from services.shared.pg.schema.post_data import Plan, plan


def entry(name: str, kind: str, text: str) -> RestoreEntry:
    return RestoreEntry(kind, f"{kind.lower()} {name}", f"{text};\n".encode())


T, ODD, P, P1, R = (TableId("public", name) for name in ("t", 'O "x', "p", "p1", "r"))
KINDS = {T: "r", ODD: "r", P: "p", P1: "r", R: "r"}


def planned(*entries: RestoreEntry, version: int = 180000) -> Plan:
    return plan(Script(b"", entries), KINDS, version)


def items_of(whole: Plan, table: TableId) -> tuple[list[bytes], list[bytes]]:
    """SQL of its builds, and of what follows."""
    (found,) = [items for items in whole.tables if items.table == table]
    return [item.text for item in found.builds], [item.text for item in found.finish]


def test_primary_key_is_built_as_an_index_and_then_adopts_it() -> None:
    text = (
        'ALTER TABLE ONLY public.t\n    ADD CONSTRAINT "k;" UNIQUE NULLS NOT DISTINCT (a, "b,)") INCLUDE (c)'
        " WITH (fillfactor='70') DEFERRABLE INITIALLY DEFERRED;\n\n"
        'ALTER TABLE public.t CLUSTER ON "k;"'
    )
    builds, finish = items_of(planned(entry("t k", "CONSTRAINT", text)), T)
    assert builds == [
        b'CREATE UNIQUE INDEX "k;" ON public.t USING btree (a, "b,)") INCLUDE (c) NULLS NOT DISTINCT'
        b" WITH (fillfactor='70');"
    ]
    assert finish == [
        b'ALTER TABLE ONLY public.t\n    ADD CONSTRAINT "k;" UNIQUE USING INDEX "k;"'
        b' DEFERRABLE INITIALLY DEFERRED;\n\nALTER TABLE public.t CLUSTER ON "k;";'
    ]


def test_what_locks_the_table_comes_after_its_indexes() -> None:
    index = "CREATE INDEX i ON public.t USING btree (a) WHERE (b <> ';')"
    identity = "ALTER TABLE ONLY public.t REPLICA IDENTITY USING INDEX i"
    apart = "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT x EXCLUDE USING gist (a WITH &&)"
    whole = planned(
        entry("i", "INDEX", f"{index};\n\n\n{identity}"),
        entry("t x", "CONSTRAINT", apart),
        entry("s", "STATISTICS", "CREATE STATISTICS public.s ON a, b FROM public.t"),
    )
    builds, finish = items_of(whole, T)
    assert builds == [f"{index};".encode()]
    assert finish[0] == f"{identity};".encode()
    assert [b"EXCLUDE" in finish[1], b"CREATE STATISTICS" in finish[2]] == [True, True]
    assert whole.total == 2


def test_partitioned_parents_wait_and_their_partitions_do_not() -> None:
    whole = planned(
        entry("o i", "INDEX", 'CREATE UNIQUE INDEX "o i" ON public."O ""x" USING btree (a)'),
        entry("p i", "INDEX", "CREATE INDEX p_i ON ONLY public.p USING btree (a)"),
        entry("p k", "CONSTRAINT", "ALTER TABLE ONLY public.p\n    ADD CONSTRAINT p_k PRIMARY KEY (a)"),
        entry("p1 i", "INDEX", "CREATE INDEX p1_i ON public.p1 USING btree (a)"),
        entry("p1 i", "INDEX ATTACH", "ALTER INDEX public.p_i ATTACH PARTITION public.p1_i"),
        entry("n i", "INDEX", "CREATE INDEX n_i ON public.made_later USING btree (a)"),
        entry("t tr", "TRIGGER", "CREATE TRIGGER tr"),
    )
    assert {items.table for items in whole.tables} == {ODD, P1}
    assert [item.label for item in whole.parents] == ["index p i", "constraint p k", "index attach p1 i"]
    assert [item.label for item in whole.rest] == ["index n i", "trigger t tr"]


def test_index_that_calls_a_function_of_the_users_is_late() -> None:
    whole = planned(
        entry("i", "INDEX", "CREATE INDEX i ON public.t USING btree (public.f(a))"),
        entry("j", "INDEX", "CREATE INDEX j ON public.t USING gist (a public.ops) WHERE (lower(b) = 'x.f(')"),
        entry("k", "INDEX", "CREATE INDEX k ON public.t USING btree (lower(a), ((b)::public.citext))"),
    )
    ((found,),) = [(items,) for items in whole.tables]
    assert [item.late for item in found.builds] == [True, False, False]


def foreign(table: str, target: str, rest: str = "", *, only: str = "ONLY ") -> RestoreEntry:
    text = f"ALTER TABLE {only}public.{table}\n    ADD CONSTRAINT f"
    text += f" FOREIGN KEY (a) REFERENCES public.{target}(a)"
    return entry(f"{table} f", "FK CONSTRAINT", f"{text}{rest}")


def test_foreign_keys_are_added_unchecked_and_checked_table_by_table() -> None:
    whole = planned(foreign("t", "r"), foreign("t", "p1", " ON DELETE SET NULL (a)"), foreign("r", "t"))
    assert [item.text.endswith(b" NOT VALID;") for item in whole.keys] == [True] * 3
    assert [[item.text for item in chain] for chain in whole.checks] == [
        [b"ALTER TABLE ONLY public.t VALIDATE CONSTRAINT f;"] * 2,
        [b"ALTER TABLE ONLY public.r VALIDATE CONSTRAINT f;"],
    ]
    assert whole.total == 3


def test_foreign_key_that_the_source_has_not_checked_stays_so() -> None:
    whole = planned(foreign("t", "r", " NOT VALID"))
    assert whole.checks == ()
    assert whole.keys[0].text.count(b"NOT VALID") == 1


@pytest.mark.parametrize(("version", "standing"), [(170000, True), (180000, False)])
def test_foreign_keys_of_partitioned_tables_are_left_unchanged_before_18(
    version: int, standing: bool
) -> None:
    whole = planned(foreign("t", "p"), foreign("p", "r", only=""), version=version)
    assert (whole.keys == ()) is standing
    assert len(whole.checks) == (1 if standing else 2)


def test_unknown_statements_are_executed_unchanged() -> None:
    period = "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT p PRIMARY KEY (a, b WITHOUT OVERLAPS)"
    whole = planned(entry("t p", "CONSTRAINT", period), entry("s", "STATISTICS", "CREATE STATISTICS s ON a"))
    builds, finish = items_of(whole, T)
    assert (builds, finish) == ([], [f"{period};\n".encode()])
    assert [item.label for item in whole.rest] == ["statistics s"]


@pytest.mark.parametrize(
    "text", ["CREATE INDEX i ON public.t USING btree (a", "ALTER 'x", 'ALTER "x', "$x$;"]
)
def test_sql_without_an_end_is_refused(text: str) -> None:
    with pytest.raises(PgmigError):
        planned(RestoreEntry("INDEX", "index i", text.encode()))


@pytest.mark.parametrize(
    ("found", "chosen"),
    [([15, 16], None), ([16, 17, 18], 18), ([17], None), ([17, 19], 19), ([20, 19], 19), ([], None)],
)
def test_pg_dump_is_never_older_than_source_or_destination(found: list[int], chosen: int | None) -> None:
    tools = [DumpTools(Path(f"/{major}"), major) for major in found]
    picked = choose_tools(tools, 17, 18)
    assert (picked.major if picked else None) == chosen
