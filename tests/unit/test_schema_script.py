"""pg_restore's scripts taken apart: psql's meta-commands out, entries by table."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.shared.model import TableId
from services.shared.pg.dump import plain_script
from services.shared.pg.postdata import Plan, event_triggers_last, plan, split_entries, statements
from services.shared.pg.tools import DumpTools, choose_tools

HEAD = b"--\n-- PostgreSQL database dump\n--\n\n"


def entry(name: str, kind: str, text: str) -> bytes:
    return f"--\n-- Name: {name}; Type: {kind}; Schema: public; Owner: -\n--\n\n{text};\n\n\n".encode()


def test_restrict_pair_is_taken_out_and_look_alikes_in_bodies_stay() -> None:
    body = b"SET x = 0;\nCREATE FUNCTION f() AS $$\n\\restrict inner\n\\unrestrict inner\n$$;\n"
    script = HEAD + b"\\restrict abc\n\n" + body + b"--\n-- done\n--\n\n\\unrestrict abc\n\n"
    assert plain_script(script) == HEAD + b"\n" + body + b"--\n-- done\n--\n\n\n"


def test_script_without_the_pair_is_left_alone() -> None:
    script = HEAD + b"SET x = 0;\n\\unrestrict in a body\n"
    assert plain_script(script) == script


def test_entries_joined_again_are_the_script() -> None:
    script = (
        HEAD
        + entry("i", "INDEX", "CREATE INDEX i ON public.t USING btree (a)")
        + entry("t tr", "TRIGGER", "CREATE TRIGGER tr")
    )
    entries = split_entries(script)
    assert b"".join(e.text for e in entries) == script
    assert [e.kind for e in entries] == [b"", b"INDEX", b"TRIGGER"]
    assert split_entries(b"SET x = 0;\n")[0].text == b"SET x = 0;\n"


T, ODD, P, P1, R = (TableId("public", name) for name in ("t", 'O "x', "p", "p1", "r"))
KINDS = {T: "r", ODD: "r", P: "p", P1: "r", R: "r"}


def planned(*entries: bytes, version: int = 180000) -> Plan:
    return plan(HEAD + b"".join(entries), KINDS, version)


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


def foreign(table: str, target: str, rest: str = "", *, only: str = "ONLY ") -> bytes:
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
def test_foreign_keys_of_partitioned_tables_stand_as_they_are_before_18(version: int, standing: bool) -> None:
    whole = planned(foreign("t", "p"), foreign("p", "r", only=""), version=version)
    assert (whole.keys == ()) is standing
    assert len(whole.checks) == (1 if standing else 2)


def test_a_default_that_changes_belongs_to_the_entry_behind_it() -> None:
    first = entry("t tr", "TRIGGER", "CREATE TRIGGER tr") + b"SET default_table_access_method = heap;\n\n"
    script = HEAD + first + entry("v", "MATERIALIZED VIEW", "CREATE MATERIALIZED VIEW v AS SELECT 1")
    entries = split_entries(script)
    assert b"".join(one.text for one in entries) == script
    assert entries[2].text.startswith(b"SET default_table_access_method")


def test_quoted_semicolons_end_no_statement() -> None:
    text = b"-- a;\nCREATE x 'a;''b' \";\" $q$;$q$ E'\\';';\n\n-- ;\nALTER y;\n-- end;\n"
    assert statements(text) == [b"CREATE x 'a;''b' \";\" $q$;$q$ E'\\';';", b"ALTER y;"]


def test_event_triggers_come_after_what_they_might_be_about() -> None:
    script = (
        HEAD
        + entry("EVENT TRIGGER a", "COMMENT", "COMMENT ON EVENT TRIGGER a IS 'x'")
        + entry("a", "EVENT TRIGGER", "CREATE EVENT TRIGGER a ON ddl_command_start")
        + entry("v", "MATERIALIZED VIEW DATA", "REFRESH MATERIALIZED VIEW public.v")
        + entry("TRIGGER t ON public.t", "COMMENT", "COMMENT ON TRIGGER t ON public.t IS 'EVENT TRIGGER'")
    )
    kinds = [one.kind for one in event_triggers_last(split_entries(script))]
    assert kinds == [b"", b"MATERIALIZED VIEW DATA", b"COMMENT", b"COMMENT", b"EVENT TRIGGER"]


@pytest.mark.parametrize(
    ("found", "chosen"),
    [([15, 16], None), ([16, 17, 18], 18), ([17], None), ([17, 19], 19), ([20, 19], 19), ([], None)],
)
def test_pg_dump_is_never_older_than_source_or_destination(found: list[int], chosen: int | None) -> None:
    tools = [DumpTools(Path(f"/{major}"), major) for major in found]
    picked = choose_tools(tools, 17, 18)
    assert (picked.major if picked else None) == chosen
