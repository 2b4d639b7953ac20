"""Numbers, strings and bytes."""

from __future__ import annotations

from collections.abc import Iterator

from tests.support.data.values.case import Case, strings


def _unicode() -> Iterator[str]:
    """Strings with code points of all seventeen planes, and unusual ones of the first plane."""
    for plane in range(17):
        first = plane << 16
        points = [first + offset for offset in (1, 0x41, 0x7F, 0x80, 0xFFF, 0x1F600 & 0xFFFF, 0xFFFD)]
        yield "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
        yield f"{chr(first + 0xFFFE)}{chr(first + 0xFFFF)}"
    yield "".join(map(chr, range(1, 0x80)))
    yield "".join(map(chr, range(0x80, 0x100)))
    yield "\ufeffbom \u202eright to left\u202c e\u0301 is not \u00e9; \u1e9e ß \u0131 \u0130"
    yield "👩\u200d👩\u200d👧\u200d👦 🏳️\u200d🌈 \ue000 \uf8ff"


TEXTS = (
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
NUMBERS_AND_TEXT: tuple[Case, ...] = (
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
        (*strings(*TEXTS, *_unicode()), "repeat('x', 100000)", "repeat(md5('a'), 3000) || E'\\n\\\\'"),
    ),
    Case("varchar", strings(*TEXTS)),
    Case("varchar(4)", strings("", "abcd", "é☃𝄞x", "a  ", "'\\\"\n")),
    Case("char(5)", strings("", "a", "a    ", "  a", "abcde", "é☃𝄞", "\n", "\\N", " ")),
    Case("bpchar", strings("", "a", "a  ", "   ", "é ")),
    Case(
        '"char"',
        ("'a'", "''", "' '", "''''", r"E'\\'", r"E'\x01'", '127::"char"', '(-128)::"char"', '(-1)::"char"'),
    ),
    Case("name", strings("", "Mixed Case", "x" * 63, "é" * 31, '"', "\\")),
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
)
