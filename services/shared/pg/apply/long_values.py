"""Values that are too long for a parameter, because libpq would hold a second copy in memory.

They are sent to the server in fragments, before their statement, into a temporary table of the session. The
statement joins the fragments. A bytea is sent as hexadecimal digits, and each fragment is a separate bytea,
so the server never holds its whole text. Any other value is cut between characters, joined as text, and
converted to the type (`TargetColumn.typed`), without the type's length or precision. The assignment to the
column then checks these, as for any value. Text that travels as it is stored, in another encoding than UTF-8,
is sent as bytea and becomes text when its fragments are joined. So nobody needs to know where its characters
end.

The table is created when it is first needed, which requires the privilege TEMPORARY on the database. It is
emptied before the next statement with long values, and by the commit.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from psycopg import sql

LONG = 4 << 20
"""Bytes. A longer value is sent in fragments."""
FRAGMENT = 1 << 20

_LONGEST_CHARACTER = 4
_HEX = b"\\x"
_BYTEA = "bytea"

MAKE_TABLE = (
    b"CREATE TEMPORARY TABLE IF NOT EXISTS pgmig_fragments"
    b" (value int4, number int4, text text, bytea bytea) ON COMMIT DELETE ROWS"
)
# Compressing data that is soon decompressed would cost more than all other work.
UNCOMPRESSED = (
    b"ALTER TABLE pg_temp.pgmig_fragments ALTER text SET STORAGE EXTERNAL, ALTER bytea SET STORAGE EXTERNAL"
)
EMPTY_TABLE = b"TRUNCATE pg_temp.pgmig_fragments"
ADD_TEXT = b"INSERT INTO pg_temp.pgmig_fragments (value, number, text) VALUES ($1, $2, $3)"
ADD_BYTEA = b"INSERT INTO pg_temp.pgmig_fragments (value, number, bytea) VALUES ($1, $2, $3)"


class LongValue(NamedTuple):
    """parameter: index of the statement's parameter that represents the value. That parameter contains this
    index. bytea: the value is a bytea. encoding: of text that is sent as bytea, otherwise ""."""

    parameter: int
    data: memoryview
    bytea: bool
    encoding: str = ""

    @property
    def in_bytes(self) -> bool:
        """Whether the fragments are bytea."""
        return self.bytea or bool(self.encoding)


def long_values(
    values: Sequence[object], types: Sequence[str | None], encoding: str = ""
) -> tuple[LongValue, ...]:
    """The parameters of a statement that are too long. types: the parameters' types (None: not usable as an
    array's element). encoding: as from `stored_encoding`."""
    return tuple(
        LongValue(n, value, True) if _is_hex(value, type_sql) else LongValue(n, value, False, encoding)
        for n, (value, type_sql) in enumerate(zip(values, types, strict=True))
        if isinstance(value, memoryview) and len(value) > LONG
    )


def _is_hex(value: memoryview, type_sql: str | None) -> bool:
    return type_sql == _BYTEA and value[: len(_HEX)] == _HEX


def joined(slot: sql.Composable, value: LongValue) -> sql.Composable:
    """The value as an expression of type text or bytea. slot: the parameter that represents it."""
    kind = sql.SQL("bytea" if value.in_bytes else "text")
    whole = sql.SQL(
        "(SELECT string_agg({0}, ''::{0} ORDER BY number)"
        " FROM pg_temp.pgmig_fragments WHERE value = {1}::int4)"
    ).format(kind, slot)
    if not value.encoding:
        return whole
    return sql.SQL("pg_catalog.convert_from({}, {})").format(whole, sql.Literal(value.encoding))


def fragments(value: LongValue) -> Iterator[bytes]:
    """Parameters of ADD_BYTEA or ADD_TEXT. After each fragment, memory that maps a file is released."""
    data, at = value.data, len(_HEX) if value.bytea else 0
    while at < len(data):
        end = min(at + FRAGMENT, len(data))
        if value.encoding:
            yield _HEX + data[at:end].hex().encode()
        else:
            if end < len(data):  # the server reports invalid ends of values
                end = end - (end - at) % 2 if value.bytea else _between_characters(data, end)
            yield (_HEX if value.bytea else b"") + data[at:end]
        if isinstance(data.obj, mmap.mmap):
            data.obj.madvise(mmap.MADV_DONTNEED)
        at = end


def _between_characters(data: memoryview, end: int) -> int:
    """`end`, or the start of the UTF-8 character that spans it."""
    return next((at for at in range(end, end - _LONGEST_CHARACTER, -1) if data[at] & 0xC0 != 0x80), end)
