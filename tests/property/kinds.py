"""Kinds of columns: a type, and few enough values of it that changes meet the same rows again.

Among the values of a kind are ones that are equal but not the same (1.0 and 1.00, 1 day and 24
hours, 0 and -0), and texts that quoting gets wrong. Everything is an SQL expression.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from psycopg import sql


def quoted(text: str) -> str:
    """`text` as an SQL string."""
    return sql.Literal(text).as_string().strip()


def name(text: str) -> str:
    """`text` as an SQL identifier."""
    return sql.Identifier(text).as_string()


@dataclass(frozen=True, slots=True)
class Kind:
    """sql_type: `{schema}` stands for the history's own. values: expressions, cast by the column.

    key: values can be a key's. wider: a type that holds the same values, for the destination.
    big: values are kept out of line.
    """

    sql_type: str
    values: tuple[str, ...]
    key: bool = True
    wider: str = ""
    big: bool = False

    def value(self, random: Random) -> str:
        return random.choice(self.values)

    @property
    def number(self) -> bool:
        return self.sql_type in {"int", "bigint"}


def _texts(*texts: str) -> tuple[str, ...]:
    return tuple(map(quoted, texts))


INT = Kind("int", tuple(map(str, range(1, 15))), wider="bigint")
BIGINT = Kind("bigint", (*map(str, range(1, 9)), "9007199254740993", "-9223372036854775808"), wider="numeric")
TEXT = Kind("text", _texts("", "a", "A", "b", " a", "NULL", "é☃𝄞", "it's", 'q"', "\\", "a\nb", "{a,b}"))
LABEL = Kind("varchar(6)", _texts("", "x", "y", "z  ", "ß", '"'), wider="text")
BIG = Kind(
    "text",
    (
        *(f"repeat(md5('{n}'), {times})" for n, times in ((1, 80), (2, 90), (3, 300), (4, 100))),
        "''",
        "'short'",
    ),
    key=False,
    big=True,
)
BIG_BYTES = Kind(
    "bytea", (r"decode(repeat(md5('5'), 160), 'hex')", r"'\x00'", r"'\x5c27'"), key=False, big=True
)

KINDS: tuple[Kind, ...] = (
    INT,
    BIGINT,
    TEXT,
    LABEL,
    Kind("numeric", ("1", "1.0", "1.00", "2.50", "2.5", "0", "-1", "'NaN'", "'Infinity'", "1e30")),
    Kind("numeric(6,2)", ("1", "2.5", "-0.01", "'NaN'"), wider="numeric"),
    Kind("float8", ("0", "'-0'", "1", "0.1", "'NaN'", "'Infinity'", "1e-300"), key=True),
    Kind("char(4)", _texts("", "a", "ab", "abcd", "é")),
    Kind("uuid", tuple(f"'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a{n:02}'" for n in range(6))),
    Kind("timestamptz", _texts("2024-02-29 12:00+00", "infinity", "-infinity", "0044-03-15 00:00+00 BC")),
    Kind("date", _texts("2024-02-29", "infinity", "0044-03-15 BC", "1999-12-31")),
    Kind("interval", _texts("1 day", "24:00:00", "1 mon", "30 days", "-1 day", "0", "1 mon -30 days")),
    Kind("jsonb", _texts("1", "1.0", '"a"', '{"a": 1}', '{"a": 1.0}', "null", "[]")),
    Kind("bytea", (r"'\x'", r"'\x00'", r"'\x5c'", r"'\xff27'")),
    Kind("varbit", ("B''", "B'0'", "B'00'", "B'1'")),
    Kind("inet", _texts("10.0.0.1/8", "10.0.0.1", "::1")),
    Kind("int[]", _texts("{}", "{1}", "{1,NULL}", "{{1}}", "[0:0]={1}")),
    Kind("text[]", ("'{}'", "ARRAY[NULL, 'NULL', '']", "ARRAY['a,\"b', E'\\\\']")),
    Kind("{schema}.mood", _texts("", "sad", 'it\'s "so", {so}')),
    Kind("{schema}.pair", ("ROW(1, 'a')", "ROW(NULL, NULL)", "ROW(2, E'\"\\\\,')", "ROW(1, '')")),
    Kind("{schema}.percent", ("0", "99.999", "0.000", "-1")),
    Kind("boolean", ("true", "false"), key=False),
    Kind("json", _texts('{"a": 1, "a": 2}', "[ 1 ]", "null"), key=False),
    Kind("point", _texts("(0,0)", "(-0,NaN)", "(0.1,1e300)"), key=False),
    Kind("box", _texts("(1,1),(0,0)", "(2,0.5),(0,0)"), key=False),
    Kind("tsvector", _texts("a:1 b:2A", "", "'it''s':1"), key=False),
    Kind("money", ("'1.10'", "'-0.01'", "0"), key=False),
    Kind("int4range", _texts("empty", "[1,3)", "[2,5)", "(,)"), key=False),
    Kind("hstore", _texts("", "a=>NULL", '"q\\""=>"x, y"'), key=False),
    Kind("citext", _texts("a", "A", "b", "é"), key=True),
)

LONG_KEY = Kind("text", tuple(f"repeat('k', 2300) || '{n}'" for n in range(5)), big=True)
"""Its values fit into an index when compressed, and are stored out of line in the table."""

TYPES_DDL = """
CREATE TYPE {schema}.mood AS ENUM ('', 'sad', 'it''s "so", {{so}}');
CREATE TYPE {schema}.pair AS (a int, b text);
CREATE DOMAIN {schema}.percent AS numeric(6,3) CHECK (VALUE BETWEEN -100 AND 100);
"""
