"""Every type that a column may have, each with the values that are difficult to copy.

A case is a type as SQL names it and SQL expressions that the server casts to it. Expressions hold
no setting-dependent text beyond what the writer's session fixes (WRITER_SETTINGS).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from psycopg import sql

WRITER_SETTINGS = (
    "-c DateStyle=ISO,MDY -c IntervalStyle=postgres -c TimeZone=UTC -c extra_float_digits=3 "
    "-c bytea_output=hex -c lc_monetary=C -c array_nulls=on -c xmloption=content -c search_path=public "
    "-c standard_conforming_strings=on -c client_encoding=UTF8 "
    "-c default_transaction_isolation=read\\ committed -c statement_timeout=0"
)
"""libpq options for a session that writes these values or reads them for comparison."""


@dataclass(frozen=True, slots=True)
class Case:
    """portable: the type's send function gives the same bytes on every server (no OIDs of types
    that were made by the user)."""

    sql_type: str
    values: tuple[str, ...]
    portable: bool = True


TYPES_DDL = """
CREATE EXTENSION hstore SCHEMA public;
CREATE EXTENSION citext SCHEMA public;
CREATE EXTENSION ltree SCHEMA public;
CREATE EXTENSION cube SCHEMA public;
CREATE TYPE mood AS ENUM ('', 'sad', 'it''s "quoted", {ok}', E'tab\\tand\\\\', 'ünïcödé ☃');
CREATE DOMAIN email AS text CHECK (VALUE IS NULL OR VALUE LIKE '%@%');
CREATE DOMAIN percent AS numeric(6,3) CHECK (VALUE BETWEEN -100 AND 100);
CREATE DOMAIN numbers AS int[];
CREATE TYPE inner_pair AS (a int, b text);
CREATE TYPE "Pair Of" AS ("First One" text, second int[], "in" inner_pair, at timestamptz, e mood);
CREATE DOMAIN pair_domain AS inner_pair;
CREATE TYPE textrange AS RANGE (subtype = text, collation = "C");
CREATE TYPE floatrange AS RANGE (subtype = float8, subtype_diff = float8mi);
"""


def literal(text: str) -> str:
    """`text` as an SQL string."""
    return sql.Literal(text).as_string().strip()


def _strings(*texts: str) -> tuple[str, ...]:
    return tuple(literal(text) for text in texts)


def _unicode() -> Iterator[str]:
    """Strings with code points of all seventeen planes, and the odd ones of the first."""
    for plane in range(17):
        first = plane << 16
        points = [first + offset for offset in (1, 0x41, 0x7F, 0x80, 0xFFF, 0x1F600 & 0xFFFF, 0xFFFD)]
        yield "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
        yield f"{chr(first + 0xFFFE)}{chr(first + 0xFFFF)}"
    yield "".join(map(chr, range(1, 0x80)))
    yield "".join(map(chr, range(0x80, 0x100)))
    yield "\ufeffbom \u202eright to left\u202c e\u0301 is not \u00e9; \u1e9e ß \u0131 \u0130"
    yield "👩\u200d👩\u200d👧\u200d👦 🏳️\u200d🌈 \ue000 \uf8ff"


_TEXTS = (
    *(
        "",
        " ",
        "  both ends  ",
        "NULL",
        "null",
        "\\N",
        "\\.",
        "\\",
        "\\\\",
        "'",
        "''",
        '"',
        '""',
        "$1 $$ $a$",
    ),
    *(
        "a\tb",
        "a\nb",
        "a\r\nb",
        "\v\f\b\a",
        "\\t\\n\\x41\\101",
        "{a,b}",
        "(a,b)",
        "[1,2]",
        "%s %d %%",
        "t",
        "\x7f",
    ),
    *("'; DROP TABLE keyed; --", "E'\\''", "/* open", "é", "e\u0301"),
)

_ARRAYS = (
    "'{}'",
    "ARRAY[NULL]::text[]",
    """'{"",NULL,"NULL",null,"null"," a ",",","{}","\\"","\\\\"}'""",
    "ARRAY['', NULL, 'NULL', 'a\"b', E'a\\\\b', E'a\\nb', 'a,b', '{a}', ' a ', E'\\t', 'é☃']",
    "ARRAY[['a', NULL], ['c', 'd']]",
    "'[-2:-1][0:1]={{a,b},{c,d}}'",
    "'[5:5]={only}'",
)

CASES: tuple[Case, ...] = (
    Case("boolean", ("true", "false")),
    Case("smallint", ("-32768", "32767", "0")),
    Case("integer", ("-2147483648", "2147483647", "0")),
    Case("bigint", ("'-9223372036854775808'", "9223372036854775807", "9007199254740993", "0")),
    Case(
        "real",
        (
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "'-0'",
            "0",
            "0.1",
            "'3.4028235e38'",
            "'1e-45'",
            "'1.17549435e-38'",
        ),
    ),
    Case(
        "double precision",
        (
            *(
                "'NaN'",
                "'Infinity'",
                "'-Infinity'",
                "'-0'",
                "0",
                "0.1",
                "1::float8 / 3",
                "123456789.123456789",
            ),
            *(
                "'1.7976931348623157e308'",
                "'5e-324'",
                "'2.2250738585072014e-308'",
                "'-2.2250738585072011e-308'",
            ),
        ),
    ),
    Case(
        "numeric",
        (
            *(
                "'NaN'",
                "'Infinity'",
                "'-Infinity'",
                "0",
                "0.00",
                "1",
                "1.0",
                "1.000",
                "-0.1",
                "'1e400'",
                "'1e-400'",
            ),
            *("repeat('9', 1000)::numeric", "('-0.' || repeat('123456789', 111) || '1')::numeric"),
            *("(repeat('7', 500) || '.' || repeat('3', 500))::numeric", "'1e131071'", "'1e-16383'"),
        ),
    ),
    Case("numeric(10,2)", ("99999999.99", "-0.01", "0", "'NaN'")),
    Case("numeric(5,-2)", ("1234567", "-99950", "0")),
    Case("numeric(3,5)", ("0.00999", "-0.00001", "0")),
    Case("money", ("'-92233720368547758.08'", "'92233720368547758.07'", "'0'", "'-0.01'", "'1234567.89'")),
    Case(
        "text",
        (*_strings(*_TEXTS, *_unicode()), "repeat('x', 100000)", "repeat(md5('a'), 3000) || E'\\n\\\\'"),
    ),
    Case("varchar", _strings(*_TEXTS)),
    Case("varchar(4)", _strings("", "abcd", "é☃𝄞x", "a  ", "'\\\"\n")),
    Case("char(5)", _strings("", "a", "a    ", "  a", "abcde", "é☃𝄞", "\n", "\\N", " ")),
    Case("bpchar", _strings("", "a", "a  ", "   ", "é ")),
    Case(
        '"char"',
        ("'a'", "''", "' '", "''''", r"E'\\'", r"E'\x01'", '127::"char"', '(-128)::"char"', '(-1)::"char"'),
    ),
    Case("name", _strings("", "Mixed Case", "x" * 63, "é" * 31, '"', "\\")),
    Case(
        "bytea",
        (
            *("''", r"'\x00'", r"'\x'", r"'\x5c'", r"'\x5c5c783030'", r"'\x27'"),
            "decode(array_to_string(ARRAY(SELECT lpad(to_hex(i), 2, '0')"
            " FROM generate_series(0, 255) i), ''), 'hex')",
            "decode(array_to_string(ARRAY(SELECT lpad(to_hex(255 - i % 256), 2, '0')"
            " FROM generate_series(0, 99999) i), ''), 'hex')",
        ),
    ),
    Case("bit(1)", ("B'0'", "B'1'")),
    Case("bit(17)", ("B'10101010101010101'", "repeat('0', 17)::bit(17)")),
    Case("varbit", ("B''", "B'0'", "B'00'", "B'1'", "repeat('10', 500)::varbit")),
    Case("varbit(9)", ("B''", "B'111111111'")),
    Case(
        "date",
        _strings(
            *("4713-11-24 BC", "0001-12-31 BC", "0001-01-01", "2000-02-29", "5874897-12-31"),
            *("infinity", "-infinity", "1582-10-10", "1900-01-02"),
        ),
    ),
    Case("time", _strings("00:00", "24:00", "23:59:59.999999", "00:00:00.000001")),
    Case("time(2)", _strings("23:59:59.99", "12:00")),
    Case("timetz", _strings("00:00+15:59:59", "24:00-15:59:59", "12:34:56.000001+05:45", "12:00Z")),
    Case(
        "timestamp",
        _strings(
            *("4713-11-24 00:00:00 BC", "0044-03-15 12:00:00.000001 BC", "294276-12-31 23:59:59.999999"),
            *(
                "infinity",
                "-infinity",
                "1999-12-31 23:59:59.999999",
                "2000-01-01 00:00:00",
                "2001-02-03 04:05:06.7",
            ),
        ),
    ),
    Case("timestamp(0)", _strings("2001-02-03 04:05:06", "infinity")),
    Case(
        "timestamptz",
        _strings(
            *(
                "4713-11-24 00:00:00+00 BC",
                "0044-03-15 12:00:00.000001+05:45 BC",
                "294276-12-31 23:59:59.999999+00",
            ),
            *(
                "infinity",
                "-infinity",
                "2024-03-31 01:59:59.999999+00",
                "2024-10-27 00:30:00+00",
                "1883-11-18 12:03:58+00",
            ),
            "2001-02-03 04:05:06.7-15:59:59",
        ),
    ),
    Case("timestamptz(3)", _strings("2001-02-03 04:05:06.789+01", "-infinity")),
    Case(
        "interval",
        _strings(
            *(
                "178000000 years",
                "-178000000 years",
                "0",
                "-1 mon +2 days -03:04:05.000006",
                "1 day",
                "24:00:00",
            ),
            *(
                "1 mon -1 day +00:00:00.000001",
                "-00:00:00.000001",
                "1 year -1 mon",
                "30 days",
                "1 mon",
                "-1 day +00:00",
            ),
            *(
                "2147483647 days",
                "-2147483648 days",
                "2562047788:00:54.775807",
                "1 day -24:00:00",
                "-1 year -2 days",
            ),
            *("infinity", "-infinity"),
        ),
    ),
    Case("interval day to second(3)", _strings("-1 day -02:03:04.567", "1 day -00:00:00.001")),
    Case("interval year to month", _strings("-1 year -2 mons", "0")),
    Case(
        "uuid",
        _strings(
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
        ),
    ),
    Case(
        "inet",
        _strings(
            "0.0.0.0/0", "10.1.2.3/8", "255.255.255.255", "::", "::ffff:1.2.3.4/96", "fe80::1/10", "::1/128"
        ),
    ),
    Case(
        "cidr",
        _strings("0.0.0.0/0", "10.0.0.0/8", "192.168.1.1/32", "::/0", "2001:db8::/32", "::ffff:1.2.3.4/128"),
    ),
    Case("macaddr", _strings("00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "08:00:2b:01:02:03")),
    Case(
        "macaddr8", _strings("00:00:00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff:ff:ff", "08:00:2b:ff:fe:01:02:03")
    ),
    Case(
        "json",
        _strings(
            *(
                '{"a": 1, "a": 2}',
                '{ "b" :\n[1 ,2,\t3]}',
                r'"\u00e9\ud83d\ude00\u0000\"\\\/"',
                "null",
                " null ",
                '""',
            ),
            *(
                "1e400",
                "1.000",
                "-0",
                "12345678901234567890.123456789",
                "[]",
                "{}",
                '{"": {"": null}}',
                "true",
                '"é☃𝄞"',
            ),
            "[" * 200 + "]" * 200,
        ),
    ),
    Case(
        "jsonb",
        _strings(
            *(
                '{"a": 1, "a": 2}',
                '{"b": [1, 2.50, -0.0, 1e100], "aa": null, "a": {}}',
                r'"\u00e9\ud83d\ude00\"\\\/\u0001"',
            ),
            *(
                "null",
                '""',
                "1.000",
                "-0",
                "9007199254740993",
                "[]",
                "{}",
                '{"": {"": null}}',
                "false",
                '"NULL"',
                '"é☃𝄞"',
            ),
            "9" * 1000,
            "[" * 100 + "]" * 100,
        ),
    ),
    Case(
        "jsonpath",
        _strings(
            "$",
            r'strict $.a[*] ? (@.b > 1 && @.c like_regex "^\\d" flag "i")',
            '$."it\'s \\"q\\""',
            "lax $[0 to last]",
        ),
    ),
    Case(
        "tsvector",
        _strings("", "a:1A fat:2B,4C cat:5D", r"'it''s':1 'back\\slash':2 ' ':3 'é':16383", "b a c"),
    ),
    Case("tsquery", _strings("", "'a' & !'b':*AB | 'c' <-> 'd'", r"'it''s' <5> 'back\\slash'", "'é ☃'")),
    Case("oid", ("0", "4294967295")),
    Case("xid", ("'0'", "'4294967295'")),
    Case("xid8", ("'0'", "'18446744073709551615'")),
    Case("cid", ("'4294967295'",)),
    Case("tid", _strings("(0,0)", "(4294967295,65535)")),
    Case("oidvector", _strings("", "1 4294967295")),
    Case("int2vector", _strings("", "-32768 32767")),
    Case("pg_lsn", _strings("0/0", "FFFFFFFF/FFFFFFFF", "1/A")),
    Case("pg_snapshot", _strings("10:20:10,14,15", "1:1:", "9223372036854775806:9223372036854775807:")),
    Case("txid_snapshot", _strings("10:20:10,14,15", "1:1:")),
    Case("refcursor", _strings("", "<unnamed portal 1>"), portable=False),
    Case(
        "point",
        _strings(
            "(0,0)", "(-0,1e-300)", "(NaN,Infinity)", "(-Infinity,0.1)", "(1.7976931348623157e308,5e-324)"
        ),
    ),
    Case("line", _strings("{1,-1,0}", "{0,1,-0.1}", "{1e-10,1,Infinity}")),
    Case("lseg", _strings("[(0,0),(0,0)]", "[(0.1,-0),(Infinity,NaN)]")),
    Case("box", _strings("(1,1),(0,0)", "(Infinity,0.3),(-Infinity,0.1)", "(2,2),(2,2)", "(0.5,2),(0,0)")),
    Case("path", _strings("((0,0),(1,0.1))", "[(0,0),(1,0.1)]", "((1,1))")),
    Case("polygon", _strings("((0,0),(1,0),(1,1.1))", "((-0,Infinity))")),
    Case("circle", _strings("<(0,0),0>", "<(0.1,-0),Infinity>", "<(1,2),3>")),
    Case("int4range", _strings("empty", "(,)", "[1,5]", "(-2147483648,)", "[7,8)")),
    Case("int8range", _strings("empty", "[-9223372036854775808,9223372036854775807)", "(,3]")),
    Case("numrange", _strings("empty", "(1.0,1.00]", "[1.0,2.50)", "(-Infinity,NaN]", "(,)", "[1e-20,]")),
    Case("daterange", _strings("empty", "[0044-03-15 BC,infinity)", "(-infinity,infinity]", "(,2000-02-29]")),
    Case(
        "tsrange", _strings("empty", '["0044-03-15 00:00:00 BC",infinity]', '("2001-01-01 00:00:00.000001",)')
    ),
    Case("tstzrange", _strings("empty", '["0044-03-15 00:00:00+05:45 BC","2024-03-31 01:59:59+00")', "(,)")),
    Case("int4multirange", _strings("{}", "{[1,2),[5,)}", "{(,)}", "{[1,3],[3,9],[20,20]}")),
    Case("nummultirange", _strings("{}", "{[1.0,1.50],(2.000,3]}")),
    Case(
        "tstzmultirange",
        _strings("{}", '{["2001-01-01 00:00+00","2002-01-01 00:00+00"),[2003-01-01,infinity)}'),
    ),
    Case("textrange", _strings("empty", '["a,b","c)\\"d")', '["",z]', r'["\\",)')),
    Case("textmultirange", _strings("{}", '{["","a\\"b"),[c,d]}'), portable=True),
    Case("floatrange", _strings("empty", "[-0,0.1)", "[-Infinity,NaN]")),
    Case("text[]", (*_ARRAYS, "ARRAY(SELECT i::text FROM generate_series(1, 3000) i)")),
    Case("varchar(3)[]", _strings("{}", "{abc,NULL,é☃𝄞}")),
    Case("char(3)[]", _strings("{}", '{"a  ",NULL,"abc"}')),
    Case("int[]", _strings("{}", "{1,NULL,-3}", "{{1,2},{3,4}}", "[0:1]={1,2}", "{{{1},{2}},{{3},{4}}}")),
    Case("float8[]", _strings("{}", "{NaN,-Infinity,-0,0.1,NULL}")),
    Case("numeric(8,3)[]", _strings("{}", "{1.500,NaN,NULL}")),
    Case("bool[]", _strings("{t,f,NULL}")),
    Case("bytea[]", (r"ARRAY['\x00ff'::bytea, '\x', NULL, '\x5c22']",)),
    Case("timestamptz[]", _strings('{"0044-03-15 00:00:00+00 BC",infinity,NULL}')),
    Case("interval[]", _strings('{"-1 mon +1 day -04:05:06",NULL,"infinity"}')),
    Case("json[]", (r"""ARRAY['{"a": "x,\"y"}'::json, NULL, ' null ']""",)),
    Case("jsonb[]", (r"""ARRAY['{"a": "x,\"y"}'::jsonb, NULL, 'null']""",)),
    Case("uuid[]", ("ARRAY[NULL, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11']::uuid[]",)),
    Case("box[]", _strings("{(1,1),(0,0);(2,2),(1,1)}", "{}")),
    Case("daterange[]", _strings('{empty,"[2000-01-01,2001-01-01)",NULL}')),
    Case("int4multirange[]", ("ARRAY['{}'::int4multirange, '{[1,2),[5,6)}']",)),
    Case("mood", _strings("", "sad", 'it\'s "quoted", {ok}', "tab\tand\\", "ünïcödé ☃")),
    Case(
        "mood[]",
        ("'{}'", "ARRAY['', NULL, 'it''s \"quoted\", {ok}', E'tab\\tand\\\\']::mood[]"),
        portable=False,
    ),
    Case("email", _strings("@", 'it\'s@"q"', "é@☃")),
    Case("email[]", ("ARRAY['a@b', NULL, 'c,@\"d']::email[]",), portable=False),
    Case("percent", ("99.999", "-100", "0")),
    Case("numbers", _strings("{}", "{1,NULL}", "{{1},{2}}")),
    Case(
        "inner_pair",
        (
            "ROW(NULL, NULL)",
            "ROW(1, '')",
            "ROW(-1, 'NULL')",
            r"""ROW(0, E'a"b\\c,(d)\n''')""",
            "ROW(NULL, ' ')",
        ),
        portable=False,
    ),
    Case(
        '"Pair Of"',
        (
            "ROW(NULL, NULL, NULL, NULL, NULL)",
            r"""ROW(E'"\\,()', ARRAY[1, NULL], ROW(1, E'in "\\ner"'), '0044-03-15 00:00+00 BC',"""
            """ 'it''s "quoted", {ok}')""",
            "ROW('', '{}', ROW(NULL, NULL), 'infinity', '')",
        ),
        portable=False,
    ),
    Case("pair_domain", ("ROW(1, 'x')::inner_pair", "ROW(NULL, '')::inner_pair"), portable=False),
    Case(
        "inner_pair[]", (r"""ARRAY[ROW(1, 'a,b'), NULL, ROW(NULL, E'"\\')]::inner_pair[]""",), portable=False
    ),
    Case("hstore", _strings("", '"a"=>NULL, "b"=>"NULL", ""=>"", "q\\"\\\\"=>"x, y=>z"', '"é"=>"☃"')),
    Case("citext", _strings("", "MiXeD", "mixed2", "É", "it's\\")),
    Case("ltree", _strings("", "Top.Science.Astronomy", "a.b_1.c")),
    Case("cube", _strings("(0),(1)", "(1, -2, 0.1)", "(0.1, 0.2),(0.3, 0.4)")),
)

XML = Case(
    "xml",
    _strings(
        *("", "plain text", "<a/>", "<a>1</a><b/>", "<a b='\"'>&amp;&lt;\n</a>", "<![CDATA[ x ]]>"),
        *('<?xml version="1.0"?><a>é☃𝄞</a>', "<!-- c --><a xmlns:x='u'><x:b/></a>", "  <a/>  ", "&#233;"),
    ),
)


def with_names(cases: Iterable[Case]) -> list[tuple[str, Case]]:
    """Each case with a short name, part of its tables' names."""
    return [(f"{number:03}", case) for number, case in enumerate(cases)]
