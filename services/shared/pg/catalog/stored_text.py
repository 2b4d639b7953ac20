"""Definitions and values as a database stores them, and statements that contain them.

They may contain bytes without an equivalent in UTF-8. In Python such bytes are lone surrogates, as in
PEP 383. So different bytes are different text, and a statement can give the destination the same bytes.
Surrogates cannot be sent in UTF-8: `statement_text` replaces them.
"""

from __future__ import annotations

import re
from itertools import count

from psycopg import AsyncConnection, sql

from services.shared.pg.session.encoding import RAW, stored_encoding

_STRAY = re.compile("[\udc80-\udcff]")


def encoding_to_read(conn: AsyncConnection) -> str:
    """The encoding for convert_to() in a query for definitions or values."""
    return stored_encoding(conn) or "UTF8"


def decoded(stored: bytes, encoding: str) -> str:
    """encoding: as from `encoding_to_read`. Python lacks some codecs, and some characters differ, so in other
    encodings than UTF-8 every byte that is not ASCII becomes a surrogate."""
    return stored.decode("utf-8" if encoding in {"UTF8", RAW} else "ascii", "surrogateescape")


def literal(value: str) -> sql.Composable:
    """A literal without a type, so that the column's type converts it with its input function. A cast could
    call a function of the type's owner."""
    if not _STRAY.search(value):
        return sql.Literal(value)
    quoted = value.replace("'", "''").replace("\\", "\\\\")
    return sql.SQL(f"{'E' if quoted.count(chr(92)) else ''}'{quoted}'")


def statement_text(statement: sql.Composable, conn: AsyncConnection) -> str:
    """The statement as text that can be sent in UTF-8. conn: to the destination, for quoting."""
    text = _joined(statement, conn)
    if not _STRAY.search(text):
        return text
    escaped = _STRAY.sub(lambda found: f"\\{ord(found[0]) - 0xDC00:03o}", text.replace("\\", "\\\\"))
    inner, outer = _delimiter("statement", escaped), _delimiter("pgmig", escaped)
    stored = f"pg_catalog.decode({inner}{escaped}{inner}, 'escape')"
    execute = f"EXECUTE pg_catalog.convert_from({stored}, pg_catalog.getdatabaseencoding());"
    return f"DO {outer} BEGIN {execute} END {outer}"


def _joined(statement: sql.Composable, conn: AsyncConnection) -> str:
    """psycopg's `as_string` of a composed statement encodes it, which fails for surrogates."""
    if isinstance(statement, sql.Composed):
        return "".join(_joined(part, conn) for part in statement)
    return statement.as_string(conn)


def _delimiter(name: str, text: str) -> str:
    """A dollar quote that does not occur in the text."""
    tags = (f"${name}{number or ''}$" for number in count())
    return next(tag for tag in tags if tag not in text)
