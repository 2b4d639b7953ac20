"""Parse the statements with which pg_dump creates indexes and constraints, by their tokens.

Each function takes the tokens of one statement. It returns None for a statement of any other form, which is
then run unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.shared.model import TableId
from services.shared.pg.schema.parsing.lexer import Token, source


@dataclass(frozen=True, slots=True)
class UniqueKey:
    """A primary key or unique constraint as an index, and the statement that turns it into a constraint.

    The index has the constraint's name, so nothing is renamed. Columns, INCLUDE and storage parameters belong
    to the index in either form.
    """

    table: TableId
    primary: bool
    build: bytes
    adopt: bytes


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """add: adds the key without checking rows. validate: checks the rows."""

    table: TableId
    target: TableId
    add: bytes
    validate: bytes


class _Cursor:
    """A position in a list of tokens, at first at the beginning."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = tokens
        self.at = 0

    def peek(self, words: str) -> bool:
        """Whether these keywords, separated by spaces, come next."""
        wanted = [word.encode() for word in words.split()]
        found = self._tokens[self.at : self.at + len(wanted)]
        return len(found) == len(wanted) and all(map(Token.is_word, found, wanted))

    def words(self, words: str) -> bool:
        """Skip these keywords if they come next."""
        if not self.peek(words):
            return False
        self.at += len(words.split())
        return True

    def mark(self, mark: bytes) -> bool:
        if self.at >= len(self._tokens) or not self._tokens[self.at].is_mark(mark):
            return False
        self.at += 1
        return True

    def name(self) -> Token | None:
        if self.at >= len(self._tokens) or not self._tokens[self.at].is_name:
            return None
        self.at += 1
        return self._tokens[self.at - 1]

    def table(self) -> TableId | None:
        schema = self.name()
        if schema is None or not self.mark(b"."):
            return None
        table = self.name()
        return None if table is None else TableId(schema.name, table.name)

    def names(self) -> list[Token] | None:
        """A parenthesized list of names, including the parentheses."""
        began = self.at
        if not self.mark(b"("):
            return None
        while self.name() is not None:
            if self.mark(b")"):
                return list(self._tokens[began : self.at])
            if not self.mark(b","):
                return None
        return None

    def parentheses(self) -> list[Token] | None:
        """A parenthesized list without nested parentheses, including the parentheses."""
        began = self.at
        if not self.mark(b"("):
            return None
        while self.at < len(self._tokens) and not self._tokens[self.at].is_mark(b"("):
            if self.mark(b")"):
                return list(self._tokens[began : self.at])
            self.at += 1
        return None

    @property
    def at_end(self) -> bool:
        return self.at == len(self._tokens)


def index_table(statement: Sequence[Token]) -> TableId | None:
    """The table of CREATE INDEX."""
    cursor = _Cursor(statement)
    if not cursor.words("CREATE"):
        return None
    cursor.words("UNIQUE")
    if not cursor.words("INDEX") or cursor.name() is None or not cursor.words("ON"):
        return None
    cursor.words("ONLY")
    table = cursor.table()
    return table if cursor.peek("USING") else None


def _constraint(cursor: _Cursor) -> tuple[TableId, Token, int] | None:
    """(table, name, end position of the table) of ALTER TABLE ... ADD CONSTRAINT."""
    if not cursor.words("ALTER TABLE"):
        return None
    cursor.words("ONLY")
    table, end = cursor.table(), cursor.at
    if table is None or not cursor.words("ADD CONSTRAINT"):
        return None
    name = cursor.name()
    return None if name is None else (table, name, end)


def constraint_table(statement: Sequence[Token]) -> TableId | None:
    """The table of ALTER TABLE ... ADD CONSTRAINT."""
    found = _constraint(_Cursor(statement))
    return found[0] if found else None


def statistics_table(statement: Sequence[Token]) -> TableId | None:
    """The table of CREATE STATISTICS, whose last words are FROM and one table."""
    if not _Cursor(statement).words("CREATE STATISTICS"):
        return None
    end = _Cursor(statement[-5:])
    table = end.table() if end.words("FROM") else None
    return table if end.mark(b";") else None


def unique_key(text: bytes, statement: list[Token]) -> UniqueKey | None:
    """A primary key or unique constraint that can adopt an index. text: contains the statement."""
    cursor = _Cursor(statement)
    head = _constraint(cursor)
    if head is None:
        return None
    table, name, end = head
    primary = cursor.words("PRIMARY KEY")
    properties = _properties(text, cursor) if primary or cursor.words("UNIQUE") else None
    if properties is None:
        return None
    index, constraint = properties
    where, kind = source(text, statement[end - 3 : end]), b"PRIMARY KEY" if primary else b"UNIQUE"
    return UniqueKey(
        table,
        primary,
        build=b"CREATE UNIQUE INDEX %b ON %b USING btree %b;" % (name.text, where, index),
        adopt=b"ALTER TABLE ONLY %b\n    ADD CONSTRAINT %b %b USING INDEX %b%b;"
        % (where, name.text, kind, name.text, constraint),
    )


def _properties(text: bytes, cursor: _Cursor) -> tuple[bytes, bytes] | None:
    """(properties of the index, properties of the constraint), from after UNIQUE to the statement's end. None
    if there is anything else."""
    nulls = b" NULLS NOT DISTINCT" if cursor.words("NULLS NOT DISTINCT") else b""
    parts: list[list[Token] | None] = [cursor.names()]
    words = []
    if cursor.words("INCLUDE"):
        words.append(b" INCLUDE ")
        parts.append(cursor.names())
    if cursor.words("WITH"):
        words.append(b" WITH ")
        parts.append(cursor.parentheses())
    deferrable = b" DEFERRABLE" if cursor.words("DEFERRABLE") else b""
    if deferrable and cursor.words("INITIALLY DEFERRED"):
        deferrable += b" INITIALLY DEFERRED"
    if not (cursor.mark(b";") and cursor.at_end):
        return None
    found = [source(text, part) for part in parts if part is not None]
    if len(found) != len(parts):
        return None
    columns, *rest = found
    named = {word: word + part for word, part in zip(words, rest, strict=True)}
    return columns + named.get(b" INCLUDE ", b"") + nulls + named.get(b" WITH ", b""), deferrable


def foreign_key(text: bytes, statement: list[Token]) -> ForeignKey | None:
    """The parts of a foreign key. text: the text that contains the statement."""
    cursor = _Cursor(statement)
    head = _constraint(cursor)
    if head is None or not cursor.words("FOREIGN KEY") or cursor.names() is None:
        return None
    if not cursor.words("REFERENCES"):
        return None
    table, name, end = head
    target = cursor.table()
    if target is None or cursor.names() is None:
        return None
    add = source(text, statement[:-1]) + b" NOT VALID;"
    alter = source(text, statement[:end])
    return ForeignKey(table, target, add, b"%b VALIDATE CONSTRAINT %b;" % (alter, name.text))


def is_unchecked(statement: Sequence[Token]) -> bool:
    """Whether the constraint is NOT VALID or NOT ENFORCED."""
    end = _Cursor(statement[-3:])
    return (end.words("NOT VALID") or end.words("NOT ENFORCED")) and end.mark(b";")


def calls_functions(statement: Sequence[Token]) -> bool:
    """Whether a function outside pg_catalog is called: only such functions are written with their schema."""
    opened = next((at for at, token in enumerate(statement) if token.is_mark(b"(")), len(statement))
    for at in range(opened + 1, len(statement) - 3):
        cursor = _Cursor(statement[at : at + 4])
        if cursor.table() is not None and cursor.mark(b"("):
            return True
    return False
