"""Network addresses, JSON, text search, identifiers, geometry and ranges."""

from __future__ import annotations

from tests.support.data.values.case import Case, strings

STRUCTURES: tuple[Case, ...] = (
    Case(
        "uuid",
        strings(
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
        ),
    ),
    Case(
        "inet",
        strings(
            "0.0.0.0/0", "10.1.2.3/8", "255.255.255.255", "::", "::ffff:1.2.3.4/96", "fe80::1/10", "::1/128"
        ),
    ),
    Case(
        "cidr",
        strings("0.0.0.0/0", "10.0.0.0/8", "192.168.1.1/32", "::/0", "2001:db8::/32", "::ffff:1.2.3.4/128"),
    ),
    Case("macaddr", strings("00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "08:00:2b:01:02:03")),
    Case(
        "macaddr8", strings("00:00:00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff:ff:ff", "08:00:2b:ff:fe:01:02:03")
    ),
    Case(
        "json",
        strings(
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
        strings(
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
        strings(
            "$",
            r'strict $.a[*] ? (@.b > 1 && @.c like_regex "^\\d" flag "i")',
            '$."it\'s \\"q\\""',
            "lax $[0 to last]",
        ),
    ),
    Case(
        "tsvector",
        strings("", "a:1A fat:2B,4C cat:5D", r"'it''s':1 'back\\slash':2 ' ':3 'é':16383", "b a c"),
    ),
    Case("tsquery", strings("", "'a' & !'b':*AB | 'c' <-> 'd'", r"'it''s' <5> 'back\\slash'", "'é ☃'")),
    Case("oid", ("0", "4294967295")),
    Case("xid", ("'0'", "'4294967295'")),
    Case("xid8", ("'0'", "'18446744073709551615'")),
    Case("cid", ("'4294967295'",)),
    Case("tid", strings("(0,0)", "(4294967295,65535)")),
    Case("oidvector", strings("", "1 4294967295")),
    Case("int2vector", strings("", "-32768 32767")),
    Case("pg_lsn", strings("0/0", "FFFFFFFF/FFFFFFFF", "1/A")),
    Case("pg_snapshot", strings("10:20:10,14,15", "1:1:", "9223372036854775806:9223372036854775807:")),
    Case("txid_snapshot", strings("10:20:10,14,15", "1:1:")),
    Case("refcursor", strings("", "<unnamed portal 1>"), portable=False),
    Case(
        "point",
        strings(
            "(0,0)", "(-0,1e-300)", "(NaN,Infinity)", "(-Infinity,0.1)", "(1.7976931348623157e308,5e-324)"
        ),
    ),
    Case("line", strings("{1,-1,0}", "{0,1,-0.1}", "{1e-10,1,Infinity}")),
    Case("lseg", strings("[(0,0),(0,0)]", "[(0.1,-0),(Infinity,NaN)]")),
    Case("box", strings("(1,1),(0,0)", "(Infinity,0.3),(-Infinity,0.1)", "(2,2),(2,2)", "(0.5,2),(0,0)")),
    Case("path", strings("((0,0),(1,0.1))", "[(0,0),(1,0.1)]", "((1,1))")),
    Case("polygon", strings("((0,0),(1,0),(1,1.1))", "((-0,Infinity))")),
    Case("circle", strings("<(0,0),0>", "<(0.1,-0),Infinity>", "<(1,2),3>")),
    Case("int4range", strings("empty", "(,)", "[1,5]", "(-2147483648,)", "[7,8)")),
    Case("int8range", strings("empty", "[-9223372036854775808,9223372036854775807)", "(,3]")),
    Case("numrange", strings("empty", "(1.0,1.00]", "[1.0,2.50)", "(-Infinity,NaN]", "(,)", "[1e-20,]")),
    Case("daterange", strings("empty", "[0044-03-15 BC,infinity)", "(-infinity,infinity]", "(,2000-02-29]")),
    Case(
        "tsrange", strings("empty", '["0044-03-15 00:00:00 BC",infinity]', '("2001-01-01 00:00:00.000001",)')
    ),
    Case("tstzrange", strings("empty", '["0044-03-15 00:00:00+05:45 BC","2024-03-31 01:59:59+00")', "(,)")),
    Case("int4multirange", strings("{}", "{[1,2),[5,)}", "{(,)}", "{[1,3],[3,9],[20,20]}")),
    Case("nummultirange", strings("{}", "{[1.0,1.50],(2.000,3]}")),
    Case(
        "tstzmultirange",
        strings("{}", '{["2001-01-01 00:00+00","2002-01-01 00:00+00"),[2003-01-01,infinity)}'),
    ),
)

XML = Case(
    "xml",
    strings(
        *("", "plain text", "<a/>", "<a>1</a><b/>", "<a b='\"'>&amp;&lt;\n</a>", "<![CDATA[ x ]]>"),
        *('<?xml version="1.0"?><a>é☃𝄞</a>', "<!-- c --><a xmlns:x='u'><x:b/></a>", "  <a/>  ", "&#233;"),
    ),
)
