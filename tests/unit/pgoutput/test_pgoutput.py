"""Known messages, byte for byte as the manual's "Logical Replication Message Formats" lays them out."""

from __future__ import annotations

import pytest

from services.shared.model import ErrorKind, ReplicaIdentity, TableId
from services.shared.pgoutput import (
    UNCHANGED,
    Begin,
    Binary,
    Commit,
    Delete,
    Insert,
    Kind,
    Message,
    Origin,
    PgOutputError,
    PgOutputMessage,
    Relation,
    RelationColumn,
    StreamAbort,
    StreamCommit,
    StreamStart,
    StreamStop,
    Truncate,
    Type,
    UnsupportedMessageError,
    Update,
    kind,
    parse,
    relation_oid_of,
    truncate_oids,
)

# 2024-02-29 12:34:56.789012 UTC: 762,525,296,789,012 µs after 2000-01-01.
_PG_TIME = "0002b583 41728614"
_UNIX_US = 1_709_210_096_789_012

_KNOWN: dict[str, tuple[str, PgOutputMessage]] = {
    "begin": (f"42 00000016b374d848 {_PG_TIME} 000002f1", Begin(0x16B374D848, _UNIX_US, 753)),
    "commit": (
        f"43 00 00000016b374d848 00000016b374d878 {_PG_TIME}",
        Commit(0, 0x16B374D848, 0x16B374D878, _UNIX_US),
    ),
    "origin": ("4f 00000000016b3748 6e6f64652031 00", Origin(0x16B3748, "node 1")),
    "relation": (
        "52 00004001 7075626c696300 4163636f756e747300 64 0002"
        " 01 696400 00000014 ffffffff  00 6e616d6500 00000413 00000024",
        Relation(
            0x4001,
            "public",
            "Accounts",
            ReplicaIdentity.DEFAULT,
            (RelationColumn("id", 20, -1, True), RelationColumn("name", 1043, 36, False)),
        ),
    ),
    "relation in pg_catalog": (
        "52 00000539 00 706700 6e 0000",
        Relation(1337, "pg_catalog", "pg", ReplicaIdentity.NOTHING, ()),
    ),
    "type": ("59 00004010 7075626c696300 6d6f6f6400", Type(0x4010, "public", "mood")),
    "insert of text, empty text, null and binary": (
        "49 00004001 4e 0004 74 00000002 3432 74 00000000 6e 62 00000004 0000002a",
        Insert(0x4001, (b"42", b"", None, Binary(b"\0\0\0*"))),
    ),
    "insert of no column": ("49 00004001 4e 0000", Insert(0x4001, ())),
    "update of the row alone": (
        "55 00004001 4e 0002 74 00000001 31 75",
        Update(0x4001, None, None, (b"1", UNCHANGED)),
    ),
    "update of the key": (
        "55 00004001 4b 0002 74 00000001 31 6e 4e 0002 74 00000001 32 75",
        Update(0x4001, "K", (b"1", None), (b"2", UNCHANGED)),
    ),
    "update with the old row": (
        "55 00004001 4f 0001 74 00000001 31 4e 0001 6e",
        Update(0x4001, "O", (b"1",), (None,)),
    ),
    "delete by key": ("44 00004001 4b 0002 74 00000001 31 6e", Delete(0x4001, "K", (b"1", None))),
    "delete of the old row": ("44 00004001 4f 0001 6e", Delete(0x4001, "O", (None,))),
    "truncate": ("54 00000002 00 00004001 00004002", Truncate((0x4001, 0x4002), False, False)),
    "truncate cascade": ("54 00000001 01 00004001", Truncate((0x4001,), True, False)),
    "truncate restart identity": ("54 00000001 02 00004001", Truncate((0x4001,), False, True)),
    "message": (
        "4d 01 00000000016b3748 70676d696700 00000003 00ff41",
        Message(True, 0x16B3748, "pgmig", b"\x00\xffA"),
    ),
    "message outside a transaction": ("4d 00 0000000000000001 00 00000000", Message(False, 1, "", b"")),
    "stream start": ("53 000002f1 01", StreamStart(753, True)),
    "stream start again": ("53 000002f1 00", StreamStart(753, False)),
    "stream stop": ("45", StreamStop()),
    "stream commit": (
        f"63 000002f1 00 0000000000000010 0000000000000020 {_PG_TIME}",
        StreamCommit(753, 0, 16, 32, _UNIX_US),
    ),
    "stream abort": ("41 000002f1 000002f2", StreamAbort(753, 754)),
    "stream abort, parallel": (
        f"41 000002f1 000002f1 0000000000000010 {_PG_TIME}",
        StreamAbort(753, 753, 16, _UNIX_US),
    ),
}
_KNOWN_STREAMED: dict[str, tuple[str, PgOutputMessage]] = {
    "insert": ("49 000002f1 00004001 4e 0001 6e", Insert(0x4001, (None,), 753)),
    "update": ("55 000002f1 00004001 4e 0001 6e", Update(0x4001, None, None, (None,), 753)),
    "delete": ("44 000002f1 00004001 4b 0001 6e", Delete(0x4001, "K", (None,), 753)),
    "truncate": ("54 000002f1 00000001 00 00004001", Truncate((0x4001,), False, False, 753)),
    "type": ("59 000002f1 00004010 7300 7400", Type(0x4010, "s", "t", 753)),
    "relation": (
        "52 000002f1 00004001 7300 7400 66 0000",
        Relation(0x4001, "s", "t", ReplicaIdentity.FULL, (), 753),
    ),
    "message": ("4d 000002f1 01 0000000000000001 7000 00000000", Message(True, 1, "p", b"", 753)),
    "origin carries no xid": ("4f 0000000000000001 6e00", Origin(1, "n")),
    "stream stop carries no xid": ("45", StreamStop()),
}


@pytest.mark.parametrize(("text", "expected"), _KNOWN.values(), ids=_KNOWN)
def test_known_bytes_parse(text: str, expected: PgOutputMessage) -> None:
    parsed = parse(bytes.fromhex(text))
    assert type(parsed) is type(expected)
    assert repr(parsed) == repr(expected)


@pytest.mark.parametrize(("text", "expected"), _KNOWN_STREAMED.values(), ids=_KNOWN_STREAMED)
def test_known_bytes_of_a_streamed_block_parse(text: str, expected: PgOutputMessage) -> None:
    parsed = parse(bytes.fromhex(text), streaming=True)
    assert type(parsed) is type(expected)
    assert parsed == expected


def test_a_memoryview_parses_and_is_not_kept_alive() -> None:
    buffer = bytearray.fromhex("49 00004001 4e 0001 74 00000002 3432")
    with memoryview(buffer) as view:
        parsed = parse(view)
    buffer.clear()  # BufferError if a value still pointed into it
    assert parsed == Insert(0x4001, (b"42",))


def test_null_empty_and_unchanged_are_three_things() -> None:
    parsed = parse(bytes.fromhex("55 00004001 4e 0003 6e 74 00000000 75"))
    assert isinstance(parsed, Update)
    null, empty, unchanged = parsed.new
    assert null is None
    assert type(empty) is bytes
    assert empty == b""
    assert unchanged is UNCHANGED
    assert repr(unchanged) == "UNCHANGED"


def test_binary_and_text_of_the_same_bytes_differ_by_type() -> None:
    parsed = parse(bytes.fromhex("49 00004001 4e 0002 74 00000001 31 62 00000001 31"))
    assert isinstance(parsed, Insert)
    assert [type(value) for value in parsed.new] == [bytes, Binary]


def test_a_relation_names_its_table() -> None:
    parsed = parse(bytes.fromhex(_KNOWN["relation"][0]))
    assert isinstance(parsed, Relation)
    assert parsed.table == TableId("public", "Accounts")


@pytest.mark.parametrize(
    ("text", "what"),
    {
        "nothing": ("", "is empty"),
        "unknown kind": ("00", "0x00 of 1 bytes is damaged: no such message"),
        "no tuple": ("49 00004001", "INSERT of 5 bytes is damaged: it ends too early"),
        "old tuple in an insert": ("49 00004001 4b 0000", "a new row was expected, not 0x4b"),
        "no new tuple": ("55 00004001 4b 0000", "ends too early"),
        "two old tuples": ("55 00004001 4b 0000 4b 0000", "a new row was expected, not 0x4b"),
        "unknown tuple": ("55 00004001 41 0000", "an old or new row was expected"),
        "new tuple in a delete": ("44 00004001 4e 0000", "an old row was expected, not 0x4e"),
        "unknown column format": ("49 00004001 4e 0002 6e 78", "column 2 has the unknown format 0x78"),
        "more columns than bytes": ("49 00004001 4e ffff 6e", "ends too early"),
        "four gigabytes announced": ("49 00004001 4e 0001 74 ffffffff 61", "ends too early"),
        "four gigabytes in the middle": ("49 00004001 4e 0002 62 ffffffff 61 6e", "ends too early"),
        "four billion relations": ("54 ffffffff 00 00004001", "ends too early"),
        "four gigabytes of message": ("4d 01 0000000000000001 7000 ffffffff 61", "ends too early"),
        "trailing bytes after a row": ("49 00004001 4e 0001 6e 00", "1 bytes follow its end"),
        "trailing bytes after a begin": ("42" + "00" * 22, "2 bytes follow its end"),
        "trailing bytes after an abort": ("41 000002f1 000002f1 00", "ends too early"),
        "too few oids": ("54 00000002 00 00004001", "ends too early"),
        "too many oids": ("54 00000001 00 00004001 00004002", "4 bytes follow its end"),
        "unknown truncate flag": ("54 00000001 04 00004001", "the flags 0x04 are unknown"),
        "unknown commit flag": ("43 01" + "00" * 24, "the flags 0x01 are unknown"),
        "unknown column flag": ("52 00000001 00 7400 64 0001 03 6300 00000014 ffffffff", "flags 0x03"),
        "unknown replica identity": ("52 00000001 00 7400 78 0000", "the replica identity 0x78 is unknown"),
        "name without end": ("4f 0000000000000001 6e6f6465", "a name has no end"),
        "name not UTF-8": ("4f 0000000000000001 c328 00", "a name is not UTF-8"),
    }.values(),
)
def test_damage_is_one_typed_error_that_says_what(text: str, what: str) -> None:
    with pytest.raises(PgOutputError) as caught:
        parse(bytes.fromhex(text))
    assert caught.value.kind is ErrorKind.CORRUPT
    assert what in caught.value.message
    assert caught.value.hint


def test_a_streamed_message_without_xid_is_damaged() -> None:
    with pytest.raises(PgOutputError, match="without a transaction id"):
        parse(bytes.fromhex("49 00000000 00004001 4e 0001 6e"), streaming=True)


def test_an_error_never_shows_row_values() -> None:
    with pytest.raises(PgOutputError) as caught:
        parse(b"I\0\0\x40\x01N\0\x02t\0\0\0\x06secretx")
    assert "secret" not in f"{caught.value!r}{caught.value.__cause__!r}"


@pytest.mark.parametrize("first", [b"b", b"P", b"K", b"r", b"p"])
def test_two_phase_messages_are_refused_as_unsupported(first: bytes) -> None:
    with pytest.raises(UnsupportedMessageError, match="two-phase") as caught:
        parse(first + bytes(40))
    assert caught.value.kind is ErrorKind.CORRUPT
    assert kind(first).value == first[0]


@pytest.mark.parametrize("of", [bytes, memoryview])
def test_peeks_return_kind_and_relations(of: type[bytes] | type[memoryview]) -> None:
    insert = of(bytes.fromhex(_KNOWN["insert of no column"][0]))
    truncate = of(bytes.fromhex(_KNOWN["truncate"][0]))
    assert (kind(insert), relation_oid_of(insert), truncate_oids(insert)) == (Kind.INSERT, 0x4001, ())
    assert (kind(truncate), relation_oid_of(truncate)) == (Kind.TRUNCATE, None)
    assert truncate_oids(truncate) == (0x4001, 0x4002)


def test_peeks_skip_the_xid_of_a_streamed_message() -> None:
    delete = bytes.fromhex(_KNOWN_STREAMED["delete"][0])
    truncate = bytes.fromhex(_KNOWN_STREAMED["truncate"][0])
    assert relation_oid_of(delete, streaming=True) == 0x4001
    assert truncate_oids(truncate, streaming=True) == (0x4001,)


def test_peeks_raise_the_typed_error() -> None:
    for call in (kind, relation_oid_of, truncate_oids):
        with pytest.raises(PgOutputError, match="empty"):
            call(b"")
    with pytest.raises(PgOutputError, match="no such message"):
        kind(b"\xff")
    with pytest.raises(PgOutputError, match="ends too early"):
        relation_oid_of(b"I\0\0")
    with pytest.raises(PgOutputError, match="ends too early"):
        truncate_oids(b"T\0\0\0\x02\0\0\0\0\x01")
