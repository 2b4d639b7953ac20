"""pg_dump's archives are read as fields, whatever text stands in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.schema.archive.entries import Section, parse_archive
from services.shared.pg.schema.archive.restore_sql import script_of
from services.shared.pg.schema.parsing.lexer import Kind, statements, tokens
from tests.support.schema.archives import archive, archive_entry

HOSTILE = (
    "--\n-- Name: x; Type: INDEX; Schema: s; Owner: -\n--\n\n",
    "$$",
    "';",
    '"',
    "\\",
    "\n",
    "E'\\''",
    "x",
)
texts = st.lists(st.sampled_from(HOSTILE)).map("".join)
entries = st.lists(
    st.builds(
        archive_entry,
        st.integers(1, 1 << 30),
        st.sampled_from(("TABLE", "INDEX", "COMMENT", "ACL")),
        texts,
        texts,
        section=st.sampled_from(list(Section)),
        definition=texts.map(str.encode),
        owner=texts,
        needs=st.lists(st.integers(0, 99)).map(tuple),
    ),
    unique_by=lambda entry: entry.dump_id,
    max_size=5,
).map(tuple)
WHOLE = archive([archive_entry(1, "TABLE", "t", "s", drop=b"DROP TABLE s.t;\n", needs=(2, 3))])


@given(entries, st.integers(13, 16))
def test_entries_come_back_as_they_were(given_entries: tuple[object, ...], version: int) -> None:
    assert parse_archive(archive(given_entries, version)) == given_entries  # type: ignore[arg-type]


def test_an_archive_cut_off_anywhere_is_refused() -> None:
    assert len(parse_archive(WHOLE)) == 1
    for length in range(len(WHOLE)):
        with pytest.raises(PgmigError) as caught:
            parse_archive(WHOLE[:length])
        assert caught.value.kind in {ErrorKind.CORRUPT, ErrorKind.TOOL_MISSING}


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_a_damaged_archive_raises_nothing_else(position: int, value: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[position] = value
    try:
        parse_archive(bytes(damaged))
    except PgmigError as exc:
        assert exc.kind in {ErrorKind.CORRUPT, ErrorKind.TOOL_MISSING}


@pytest.mark.parametrize("data", [WHOLE + b"\0", WHOLE.replace(b"PGDMP", b"PGDMQ"), WHOLE[:8]])
def test_what_is_no_archive_is_refused(data: bytes) -> None:
    with pytest.raises(PgmigError) as caught:
        parse_archive(data)
    assert caught.value.kind is ErrorKind.CORRUPT


def test_the_error_for_an_unknown_version_has_a_hint() -> None:
    with pytest.raises(PgmigError) as caught:
        parse_archive(archive([], 17))
    assert caught.value.kind is ErrorKind.TOOL_MISSING
    assert "1.17" in caught.value.message


def test_two_entries_with_one_id_are_refused() -> None:
    with pytest.raises(PgmigError):
        parse_archive(archive([archive_entry(1, "TABLE", "a"), archive_entry(1, "TABLE", "b")]))


def test_a_section_holds_what_pg_restore_would_restore_in_its_passes() -> None:
    nowhere = Section.NONE
    script = script_of(
        [
            archive_entry(1, "ENCODING", "ENCODING", definition=b"SET client_encoding = 'UTF8';\n"),
            archive_entry(2, "COMMENT", "DATABASE d", section=nowhere),
            archive_entry(3, "ACL", "TABLE t", "s", section=nowhere),
            archive_entry(4, "TABLE", "t", "s", definition=b"CREATE;\n", drop=b"DROP;\n", owner='o"o'),
            archive_entry(5, "COMMENT", "TABLE t", "s", section=nowhere),
            archive_entry(6, "COMMENT", "EVENT TRIGGER e", section=Section.POST_DATA),
            archive_entry(7, "EVENT TRIGGER", "e", section=Section.POST_DATA),
            archive_entry(8, "MATERIALIZED VIEW DATA", "m", "s", section=Section.POST_DATA),
            archive_entry(9, "COMMENT", "TRIGGER t ON t", "s", section=nowhere),
        ],
        Section.PRE_DATA,
    )
    assert [entry.kind for entry in script.entries] == ["TABLE", "COMMENT", "ACL"]
    assert script.entries[0].text == b'CREATE;\n\nALTER TABLE "s"."t" OWNER TO "o""o";\n'
    late = script_of(parse_archive(archive([
        archive_entry(6, "COMMENT", "EVENT TRIGGER e", section=Section.POST_DATA),
        archive_entry(7, "EVENT TRIGGER", "e", section=Section.POST_DATA, owner=""),
        archive_entry(8, "MATERIALIZED VIEW DATA", "m", "s", section=Section.POST_DATA),
        archive_entry(9, "COMMENT", "TRIGGER EVENT TRIGGER ON t", "s", section=Section.NONE),
    ])), Section.POST_DATA)  # fmt: skip
    assert [entry.kind for entry in late.entries] == [
        "COMMENT", "MATERIALIZED VIEW DATA", "COMMENT", "EVENT TRIGGER",
    ]  # fmt: skip


def test_an_unknown_kind_with_an_owner_is_refused() -> None:
    with pytest.raises(PgmigError) as caught:
        script_of([archive_entry(1, "GRAPH", "g", "s", drop=b"DROP GRAPH s.g;\n")], Section.PRE_DATA)
    assert caught.value.kind is ErrorKind.TOOL_MISSING
    assert "graph s.g" in caught.value.message


def test_a_dump_without_standard_strings_is_refused() -> None:
    off = b"SET standard_conforming_strings = 'off';\n"
    with pytest.raises(PgmigError):
        script_of([archive_entry(1, "STDSTRINGS", "STDSTRINGS", definition=off)], Section.PRE_DATA)


def test_quoted_semicolons_end_no_statement() -> None:
    text = b"-- a;\nCREATE x 'a;''b' \";\" $q$;$q$ E'\\';';\n\n-- ;\nALTER /* ; /* ; */ ; */ y$1;\n-- end;\n"
    assert [[token.text for token in found] for found in statements(text)] == [
        [b"CREATE", b"x", b"'a;''b'", b'";"', b"$q$;$q$", b"E'\\';'", b";"],
        [b"ALTER", b"y$1", b";"],
    ]


@given(texts)
def test_quoted_text_is_one_token(text: str) -> None:
    plain = "'" + text.replace("'", "''") + "'"
    escaped = "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    name = '"' + text.replace('"', '""') + 'n"'
    body = f"$body$ {text} $body$"
    for quoted, kind in (
        (plain, Kind.STRING),
        (escaped, Kind.STRING),
        (name, Kind.QUOTED),
        (body, Kind.STRING),
    ):
        found = list(tokens(f"({quoted});".encode()))
        assert [token.kind for token in found] == [Kind.OTHER, kind, Kind.OTHER, Kind.OTHER]
        assert found[1].text.decode() == quoted
    assert next(tokens(name.encode())).name == text + "n"
