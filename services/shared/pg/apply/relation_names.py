"""The names in Relation messages of a database whose values travel as they are stored.

A walsender sends names and values in the same encoding. Python's codecs differ from PostgreSQL's for some
characters, and Python lacks some codecs. So the destination, which has the same encoding, converts the names.
"""

from __future__ import annotations

import psycopg
from psycopg import AsyncConnection

from services.shared.model import ErrorKind, Lsn, PgmigError
from services.shared.pg.session.connection import translate
from services.shared.pg.session.encoding import RAW, codec_of, stored_encoding
from services.shared.pgoutput import Relation

_AS_BYTES = "latin-1"
"""A codec in which every byte is one character."""
_CONVERT = "SELECT pg_catalog.convert(%s, %s, 'UTF8')"


class RelationNames:
    """Converts names on a session of the destination."""

    def __init__(self, conn: AsyncConnection) -> None:
        encoding = stored_encoding(conn)
        self._conn = conn
        self._encoding = "" if encoding == RAW else encoding  # in SQL_ASCII, names are UTF-8
        self._known: dict[str, str] = {}

    @property
    def codec(self) -> str:
        """Python's codec for reading a Relation message: either of names, or one that keeps their bytes."""
        return _AS_BYTES if self._encoding else codec_of("")

    async def converted(self, relation: Relation, lsn: Lsn) -> Relation:
        """The relation, which was read with `codec`, with its names as text. lsn: for an error."""
        if not self._encoding:
            return relation
        names = (relation.schema, relation.name, *(column.name for column in relation.columns))
        if "".join(names).isascii():
            return relation
        for name in dict.fromkeys(names):
            if name not in self._known:
                self._known[name] = name if name.isascii() else await self._converted(name, lsn)
        schema, table, *columns = (self._known[name] for name in names)
        renamed = (one._replace(name=name) for one, name in zip(relation.columns, columns, strict=True))
        return relation._replace(schema=schema, name=table, columns=tuple(renamed))

    async def _converted(self, name: str, lsn: Lsn) -> str:
        stored = name.encode(_AS_BYTES)
        try:
            row = await (await self._conn.execute(_CONVERT, [stored, self._encoding])).fetchone()
        except psycopg.errors.UntranslatableCharacter as exc:
            raise PgmigError(
                ErrorKind.UNTRANSLATABLE,
                f"the source has a schema, table or column whose name has no equivalent in UTF-8: {name!r}",
                "rename it, remove the migration with `pgmig-cli cleanup --force`, and begin a new clone",
                lsn,
            ) from exc
        except psycopg.Error as exc:
            raise translate(exc, "converting names of the source on the destination") from exc
        assert row is not None
        return bytes(row[0]).decode()
