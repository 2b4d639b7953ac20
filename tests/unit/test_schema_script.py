"""pg_restore's scripts taken apart: psql's meta-commands out, entries by table."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.shared.pg.dump import plain_script
from services.shared.pg.postdata import by_table, event_triggers_last, split_entries
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


def test_only_entries_that_need_nothing_but_their_table_go_ahead() -> None:
    script = (
        HEAD
        + entry("t k", "CONSTRAINT", "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT k PRIMARY KEY (a)")
        + entry("o i", "INDEX", 'CREATE UNIQUE INDEX "o i" ON public."O ""x""" USING btree (a)')
        + entry("p i", "INDEX", "CREATE INDEX p_i ON ONLY public.p USING btree (a)")
        + entry("p k", "CONSTRAINT", "ALTER TABLE ONLY public.p\n    ADD CONSTRAINT p_k PRIMARY KEY (a)")
        + entry("p1 i", "INDEX", "CREATE INDEX p1_i ON public.p1 USING btree (a)")
        + entry("p1 i", "INDEX ATTACH", "ALTER INDEX public.p_i ATTACH PARTITION public.p1_i")
        + entry("t f", "FK CONSTRAINT", "ALTER TABLE ONLY public.t\n    ADD CONSTRAINT f FOREIGN KEY (a)")
    )
    assert sorted(by_table(split_entries(script))) == [b'public."O ""x"""', b"public.p1", b"public.t"]


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
