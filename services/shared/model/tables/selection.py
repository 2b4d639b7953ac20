"""Which part of a database is migrated, given by the operator as psql patterns.

The rules are those of psql and pg_dump (manual: psql, Patterns). Outside double quotes, letters are
folded to lower case, `*` matches any text, `?` matches any character, and `.` separates schema and
name. Everything else except `$` is part of a regular expression, so `[a-z]`, `(a|b)` and `+` work.
Inside double quotes no character is special; `""` means one quote. A pattern matches whole names. A
pattern without a schema is looked up in the search path.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from services.shared.model.errors import ErrorKind, PgmigError

INCLUDE_TABLE = "--include-table"
EXCLUDE_TABLE = "--exclude-table"
EXCLUDE_TABLE_DATA = "--exclude-table-data"
INCLUDE_SCHEMA = "--include-schema"
EXCLUDE_SCHEMA = "--exclude-schema"

_SPECIAL = frozenset("|*+?()[]{}.^$\\")


@dataclass(frozen=True, slots=True)
class Pattern:
    """option: the option that it was given to. schema, name: PostgreSQL regular expressions that match
    whole names; "" for a part that the pattern does not have."""

    option: str
    text: str
    schema: str
    name: str

    @property
    def of_schemas(self) -> bool:
        return not self.name


@dataclass(frozen=True, slots=True)
class Selection:
    """Patterns. If all are empty, everything is selected. A partition is selected with its root, and an
    owned sequence with its table.

    search_path: schemas in which the source looks up names without a schema, in order. The coordinator
    records it at the start, so that a pattern always means the same.
    """

    include_tables: tuple[str, ...] = ()
    exclude_tables: tuple[str, ...] = ()
    exclude_table_data: tuple[str, ...] = ()
    include_schemas: tuple[str, ...] = ()
    exclude_schemas: tuple[str, ...] = ()
    search_path: tuple[str, ...] = ()

    @property
    def everything(self) -> bool:
        return not any(texts for _, texts in self._given())

    def _given(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return (
            (INCLUDE_TABLE, self.include_tables),
            (EXCLUDE_TABLE, self.exclude_tables),
            (EXCLUDE_TABLE_DATA, self.exclude_table_data),
            (INCLUDE_SCHEMA, self.include_schemas),
            (EXCLUDE_SCHEMA, self.exclude_schemas),
        )

    def patterns(self) -> Iterator[Pattern]:
        """Raises INVALID_ARGUMENT for the first text that is not a pattern."""
        for option, texts in self._given():
            for text in texts:
                yield parse_pattern(option, text)


def parse_pattern(option: str, text: str) -> Pattern:
    """Raises INVALID_ARGUMENT."""
    parts = [f"^({part})$" for part in _translated(option, text)]
    if option in {INCLUDE_SCHEMA, EXCLUDE_SCHEMA}:
        if len(parts) > 1:
            raise _invalid(option, text, "a schema's name has one part: put a dot in double quotes")
        return Pattern(option, text, parts[0], "")
    if len(parts) > 2:
        raise _invalid(option, text, "a table's name has two parts at most: SCHEMA.TABLE")
    return Pattern(option, text, "" if len(parts) == 1 else parts[0], parts[-1])


def _translated(option: str, text: str) -> list[str]:
    """The parts between dots as regular expressions."""
    parts, quoted, at = [""], False, 0
    while at < len(text):
        letter, following = text[at], text[at + 1 : at + 2]
        at += 1
        if letter == '"':
            if quoted and following == '"':
                parts[-1] += '"'
                at += 1
            else:
                quoted = not quoted
        elif quoted:
            parts[-1] += f"\\{letter}" if letter in _SPECIAL else letter
        elif letter == ".":
            parts.append("")
        elif letter == "[" and following == "]":  # as in the name of an array type
            parts[-1] += "\\[\\]"
            at += 1
        else:
            parts[-1] += _unquoted(letter)
    if quoted:
        raise _invalid(option, text, "a double quote is not closed")
    return parts


def _unquoted(letter: str) -> str:
    if letter.isascii():
        return {"*": ".*", "?": ".", "$": "\\$"}.get(letter, letter.lower())
    return letter


def _invalid(option: str, text: str, why: str) -> PgmigError:
    return PgmigError(ErrorKind.INVALID_ARGUMENT, f"{option} {text!r} is not a pattern: {why}")
