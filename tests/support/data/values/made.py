"""User-defined types, types of extensions, and arrays of all kinds."""

from __future__ import annotations

from tests.support.data.values.case import Case, strings

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
_ARRAYS = (
    "'{}'",
    "ARRAY[NULL]::text[]",
    """'{"",NULL,"NULL",null,"null"," a ",",","{}","\\"","\\\\"}'""",
    "ARRAY['', NULL, 'NULL', 'a\"b', E'a\\\\b', E'a\\nb', 'a,b', '{a}', ' a ', E'\\t', 'é☃']",
    "ARRAY[['a', NULL], ['c', 'd']]",
    "'[-2:-1][0:1]={{a,b},{c,d}}'",
    "'[5:5]={only}'",
)
RANGES_OF_THE_DATABASE: tuple[Case, ...] = (
    Case("textrange", strings("empty", '["a,b","c)\\"d")', '["",z]', r'["\\",)')),
    Case("textmultirange", strings("{}", '{["","a\\"b"),[c,d]}'), portable=True),
    Case("floatrange", strings("empty", "[-0,0.1)", "[-Infinity,NaN]")),
)
ARRAYS: tuple[Case, ...] = (
    Case("text[]", (*_ARRAYS, "ARRAY(SELECT i::text FROM generate_series(1, 3000) i)")),
    Case("varchar(3)[]", strings("{}", "{abc,NULL,é☃𝄞}")),
    Case("char(3)[]", strings("{}", '{"a  ",NULL,"abc"}')),
    Case("int[]", strings("{}", "{1,NULL,-3}", "{{1,2},{3,4}}", "[0:1]={1,2}", "{{{1},{2}},{{3},{4}}}")),
    Case("float8[]", strings("{}", "{NaN,-Infinity,-0,0.1,NULL}")),
    Case("numeric(8,3)[]", strings("{}", "{1.500,NaN,NULL}")),
    Case("bool[]", strings("{t,f,NULL}")),
    Case("bytea[]", (r"ARRAY['\x00ff'::bytea, '\x', NULL, '\x5c22']",)),
    Case("timestamptz[]", strings('{"0044-03-15 00:00:00+00 BC",infinity,NULL}')),
    Case("interval[]", strings('{"-1 mon +1 day -04:05:06",NULL,"infinity"}')),
    Case("json[]", (r"""ARRAY['{"a": "x,\"y"}'::json, NULL, ' null ']""",)),
    Case("jsonb[]", (r"""ARRAY['{"a": "x,\"y"}'::jsonb, NULL, 'null']""",)),
    Case("uuid[]", ("ARRAY[NULL, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11']::uuid[]",)),
    Case("box[]", strings("{(1,1),(0,0);(2,2),(1,1)}", "{}")),
    Case("daterange[]", strings('{empty,"[2000-01-01,2001-01-01)",NULL}')),
    Case("int4multirange[]", ("ARRAY['{}'::int4multirange, '{[1,2),[5,6)}']",)),
)
MADE: tuple[Case, ...] = (
    Case("mood", strings("", "sad", 'it\'s "quoted", {ok}', "tab\tand\\", "ünïcödé ☃")),
    Case(
        "mood[]",
        ("'{}'", "ARRAY['', NULL, 'it''s \"quoted\", {ok}', E'tab\\tand\\\\']::mood[]"),
        portable=False,
    ),
    Case("email", strings("@", 'it\'s@"q"', "é@☃")),
    Case("email[]", ("ARRAY['a@b', NULL, 'c,@\"d']::email[]",), portable=False),
    Case("percent", ("99.999", "-100", "0")),
    Case("numbers", strings("{}", "{1,NULL}", "{{1},{2}}")),
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
    Case("hstore", strings("", '"a"=>NULL, "b"=>"NULL", ""=>"", "q\\"\\\\"=>"x, y=>z"', '"é"=>"☃"')),
    Case("citext", strings("", "MiXeD", "mixed2", "É", "it's\\")),
    Case("ltree", strings("", "Top.Science.Astronomy", "a.b_1.c")),
    Case("cube", strings("(0),(1)", "(1, -2, 0.1)", "(0.1, 0.2),(0.3, 0.4)")),
)
