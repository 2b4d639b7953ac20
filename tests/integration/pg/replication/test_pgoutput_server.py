"""What a real server sends parses to what was done, by every option that changes the format."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import LiteralString, TypeVar, get_args

import psycopg
import pytest

from services.shared.model import ReplicaIdentity, TableId
from services.shared.pgoutput import (
    UNCHANGED,
    Begin,
    Binary,
    Commit,
    Delete,
    Insert,
    Message,
    Origin,
    PgOutputMessage,
    Relation,
    StreamAbort,
    StreamCommit,
    StreamStart,
    StreamStop,
    Truncate,
    Type,
    Update,
    kind,
    parse,
    relation_oid_of,
    truncate_oids,
)
from tests.fuzz.pgoutput_target import check
from tests.support.pgoutput.builder import build

_SLOT = "pgoutput_test"
_PLAIN = {"proto_version": "1", "publication_names": "p", "messages": "true"}
_SCHEMA: tuple[LiteralString, ...] = (
    "CREATE TYPE mood AS ENUM ('ok', 'so so')",
    "CREATE DOMAIN age AS int CHECK (value > 0)",
    "CREATE TABLE keyed (id bigint PRIMARY KEY, doc text STORAGE EXTERNAL, note varchar(32))",
    "CREATE TABLE whole (a int, b text STORAGE EXTERNAL)",
    "ALTER TABLE whole REPLICA IDENTITY FULL",
    'CREATE TABLE "Möbel" (id int PRIMARY KEY, m mood, a age, n numeric(10,2), twice int '
    "GENERATED ALWAYS AS (id * 2) STORED)",
    "CREATE TABLE empty ()",
    "CREATE PUBLICATION p FOR ALL TABLES",
)

_InBlock = Relation | Type | Insert | Update | Delete | Truncate | Message
_M = TypeVar("_M", bound=PgOutputMessage)


class Source:
    """A database with the schema above and a slot; `messages` is what was decoded since the last call."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection
        for statement in _SCHEMA:
            self.run(statement)
        self.run(f"SELECT pg_create_logical_replication_slot('{_SLOT}', 'pgoutput')")

    def run(self, statement: LiteralString) -> None:
        self._connection.execute(statement)

    def transaction(self, *statements: LiteralString) -> None:
        with self._connection.transaction():
            for statement in statements:
                self.run(statement)

    def oid(self, table: LiteralString) -> int:
        row = self._connection.execute("SELECT %s::regclass::oid", [table]).fetchone()
        assert row is not None
        return int(row[0])

    def messages(self, **options: str) -> list[PgOutputMessage]:
        """Parsed with the streaming state kept as a reader must; each held to the fuzz contract
        and to building back to the very bytes that the server sent."""
        given = [text for pair in {**_PLAIN, **options}.items() for text in pair]
        rows = self._connection.execute(
            "SELECT data FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL, VARIADIC %s)", [_SLOT, given]
        )
        parsed = []
        streaming = False
        for (data,) in rows:
            message = parse(data, streaming=streaming)
            assert build(message) == data
            assert check(data)
            _assert_peeks_agree(data, message, streaming)
            if isinstance(message, StreamStart | StreamStop):
                streaming = isinstance(message, StreamStart)
            parsed.append(message)
        return parsed

    def changes(self, **options: str) -> list[Insert | Update | Delete | Truncate]:
        """The row changes and truncations alone."""
        changes = (Insert, Update, Delete, Truncate)
        return [m for m in self.messages(**options) if isinstance(m, changes)]


def _assert_peeks_agree(data: bytes, message: PgOutputMessage, streaming: bool) -> None:
    assert kind(data).value == data[0]
    changed = message.relation_oid if isinstance(message, Insert | Update | Delete) else None
    assert relation_oid_of(data, streaming=streaming) == changed
    emptied = message.relation_oids if isinstance(message, Truncate) else ()
    assert truncate_oids(data, streaming=streaming) == emptied


def _of(kind_of: type[_M], messages: list[PgOutputMessage]) -> list[_M]:
    return [message for message in messages if isinstance(message, kind_of)]


@pytest.fixture(params=["source_db", "dest_db"], ids=["oldest", "newest"])
def source(request: pytest.FixtureRequest) -> Iterator[Source]:
    """On the oldest server there is, and on the newest."""
    with psycopg.connect(request.getfixturevalue(request.param), autocommit=True) as connection:
        yield Source(connection)


def test_a_transaction_is_framed_by_begin_and_commit(source: Source) -> None:
    before = time.time()
    source.transaction("INSERT INTO keyed VALUES (1, 'x', ''), (2, NULL, 'y')")
    begin, relation, first, second, commit = source.messages()
    assert isinstance(begin, Begin)
    assert isinstance(commit, Commit)
    assert begin.xid > 0
    assert begin.final_lsn == commit.commit_lsn < commit.end_lsn
    assert before - 60 < commit.commit_time / 1e6 < time.time() + 60
    assert begin.commit_time == commit.commit_time
    oid = source.oid("keyed")
    assert isinstance(relation, Relation)
    assert relation.oid == oid
    assert first == Insert(oid, (b"1", b"x", b""))
    assert second == Insert(oid, (b"2", None, b"y"))


def test_relations_and_types_are_described(source: Source) -> None:
    source.run("INSERT INTO \"Möbel\" (id, m, a, n) VALUES (1, 'so so', 30, '12.50')")
    source.run("INSERT INTO whole VALUES (1, '')")
    messages = source.messages()
    named, full = _of(Relation, messages)
    assert named.table == TableId("public", "Möbel")
    assert named.replica_identity is ReplicaIdentity.DEFAULT
    assert [(c.name, c.key) for c in named.columns][:4] == [
        ("id", True),
        ("m", False),
        ("a", False),
        ("n", False),
    ]
    assert named.columns[0].type_oid == 23
    assert named.columns[0].typmod == -1
    assert named.columns[3].typmod == (10 << 16 | 2) + 4
    assert full.replica_identity is ReplicaIdentity.FULL
    assert [c.key for c in full.columns] == [True, True]
    mood, age = _of(Type, messages)
    assert (mood.schema, mood.name, mood.oid) == ("public", "mood", named.columns[1].type_oid)
    assert (age.schema, age.name, age.oid) == ("pg_catalog", "int4", named.columns[2].type_oid)
    assert _of(Insert, messages)[0].new[:4] == (b"1", b"so so", b"30", b"12.50")


def test_updates_carry_the_old_key_only_when_it_changed(source: Source) -> None:
    source.run("INSERT INTO keyed VALUES (1, 'x', 'y')")
    source.messages()
    source.run("UPDATE keyed SET note = NULL")
    source.run("UPDATE keyed SET id = 2")
    oid = source.oid("keyed")
    assert source.changes() == [
        Update(oid, None, None, (b"1", b"x", None)),
        Update(oid, "K", (b"1", None, None), (b"2", b"x", None)),
    ]


def test_an_untouched_toasted_value_is_unchanged_not_null(source: Source) -> None:
    source.run("INSERT INTO keyed VALUES (1, repeat('x', 5000), 'y')")
    (inserted,) = source.changes()
    assert isinstance(inserted, Insert)
    assert inserted.new[1] == b"x" * 5000
    source.run("UPDATE keyed SET note = ''")
    assert source.changes() == [Update(inserted.relation_oid, None, None, (b"1", UNCHANGED, b""))]


def test_replica_identity_full_carries_the_old_row(source: Source) -> None:
    source.run("INSERT INTO whole VALUES (1, NULL)")
    source.run("INSERT INTO whole VALUES (2, repeat('x', 5000))")
    source.messages()
    source.run("UPDATE whole SET a = 3")
    source.run("DELETE FROM whole")
    oid = source.oid("whole")
    long = b"x" * 5000
    assert source.changes() == [
        Update(oid, "O", (b"1", None), (b"3", None)),
        Update(oid, "O", (b"2", long), (b"3", UNCHANGED)),
        Delete(oid, "O", (b"3", None)),
        Delete(oid, "O", (b"3", long)),
    ]


def test_deletes_carry_the_key(source: Source) -> None:
    source.run("INSERT INTO keyed VALUES (1, 'x', 'y')")
    source.messages()
    source.run("DELETE FROM keyed")
    assert source.changes() == [Delete(source.oid("keyed"), "K", (b"1", None, None))]


def test_truncations_name_their_tables_and_options(source: Source) -> None:
    source.run("TRUNCATE keyed, whole")
    source.run("TRUNCATE keyed RESTART IDENTITY CASCADE")
    keyed, whole = source.oid("keyed"), source.oid("whole")
    both, one = source.changes()
    assert isinstance(both, Truncate)
    assert set(both.relation_oids) == {keyed, whole}
    assert (both.cascade, both.restart_identity) == (False, False)
    assert one == Truncate((keyed,), True, True)


def test_logical_messages_come_inside_and_outside_transactions(source: Source) -> None:
    source.run("SELECT pg_logical_emit_message(false, '', '')")
    source.run(r"SELECT pg_logical_emit_message(true, 'pgmig', '\x00ff'::bytea)")
    outside, begin, inside, commit = source.messages()
    assert isinstance(begin, Begin)
    assert isinstance(commit, Commit)
    assert isinstance(inside, Message)
    assert (inside.transactional, inside.prefix, inside.content) == (True, "pgmig", b"\x00\xff")
    assert inside.lsn <= commit.commit_lsn  # the end of its record
    assert isinstance(outside, Message)
    assert (outside.transactional, outside.prefix, outside.content) == (False, "", b"")


def test_an_origin_is_named(source: Source) -> None:
    source.run("SELECT pg_replication_origin_create('elsewhere')")
    source.run("SELECT pg_replication_origin_session_setup('elsewhere')")
    source.transaction(
        "SELECT pg_replication_origin_xact_setup('0/ABCDEF', now())", "INSERT INTO keyed VALUES (1, '', '')"
    )
    source.run("SELECT pg_replication_origin_session_reset()")
    assert _of(Origin, source.messages()) == [Origin(0xABCDEF, "elsewhere")]


def test_a_row_of_a_table_without_columns_is_empty(source: Source) -> None:
    source.run("INSERT INTO empty DEFAULT VALUES")
    assert source.changes() == [Insert(source.oid("empty"), ())]


def test_binary_values_are_distinguished_from_text(source: Source) -> None:
    source.run("INSERT INTO keyed VALUES (1, NULL, 'y')")
    (inserted,) = source.changes(binary="true")
    assert isinstance(inserted, Insert)
    assert inserted.new == (b"\0\0\0\0\0\0\0\x01", None, b"y")
    assert type(inserted.new[0]) is Binary


@pytest.mark.parametrize(("protocol", "streaming"), [("2", "on"), ("4", "parallel")])
def test_streamed_transactions_carry_their_xid(source: Source, protocol: str, streaming: str) -> None:
    source.run("SET logical_decoding_work_mem = '64kB'")
    source.transaction(
        "INSERT INTO keyed SELECT i, repeat('x', 100), '' FROM generate_series(1, 1000) i",
        "SAVEPOINT here",
        "INSERT INTO keyed SELECT i, repeat('x', 100), '' FROM generate_series(1001, 2000) i",
        "ROLLBACK TO here",
        "SELECT pg_logical_emit_message(true, 'pgmig', 'token')",
        "UPDATE keyed SET id = id + 5000 WHERE id = 1",
        "DELETE FROM keyed WHERE id = 2",
        "TRUNCATE whole",
        "INSERT INTO \"Möbel\" (id, m) VALUES (1, 'ok')",
        "INSERT INTO keyed SELECT i, repeat('x', 100), '' FROM generate_series(3001, 4000) i",
    )
    messages = source.messages(proto_version=protocol, streaming=streaming)
    starts = _of(StreamStart, messages)
    (commit,) = _of(StreamCommit, messages)
    assert len(starts) == len(_of(StreamStop, messages)) > 1
    assert [start.first for start in starts] == [True] + [False] * (len(starts) - 1)
    assert {start.xid for start in starts} == {commit.xid}
    assert 0 < commit.commit_lsn < commit.end_lsn
    aborts = _of(StreamAbort, messages)
    assert all(abort.xid == commit.xid != abort.subxid for abort in aborts)
    assert all((abort.abort_lsn is not None) == (protocol == "4") for abort in aborts)
    inner = [m for m in messages if isinstance(m, _InBlock)]
    assert {type(message) for message in inner} == set(get_args(_InBlock))
    assert all(message.xid for message in inner)
    rolled_back = {abort.subxid for abort in aborts}
    kept = [insert for insert in _of(Insert, messages) if insert.xid not in rolled_back]
    assert len(kept) == 2001
