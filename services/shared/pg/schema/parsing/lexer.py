"""PostgreSQL's tokens, with the rules of its own scanner (src/backend/parser/scan.l).

For SQL with standard_conforming_strings on. A string, a quoted identifier or a comment is one token, whatever
it contains. Text that ends within one is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from services.shared.model import ErrorKind, PgmigError


class Kind(StrEnum):
    WORD = "word"
    QUOTED = "quoted"
    STRING = "string"
    OTHER = "other"
    """A number, a parameter, or one character of an operator or of punctuation."""


class Token(NamedTuple):  # there are very many: a tuple is created in a third of the time
    """text[start:end] is the token."""

    kind: Kind
    start: int
    end: int
    text: bytes

    def is_word(self, word: bytes) -> bool:
        """word: a keyword in upper case."""
        return self.kind is Kind.WORD and self.text.upper() == word

    def is_mark(self, mark: bytes) -> bool:
        return self.kind is Kind.OTHER and self.text == mark

    @property
    def is_name(self) -> bool:
        return self.kind in {Kind.WORD, Kind.QUOTED}

    @property
    def name(self) -> str:
        """The identifier that the token means. pg_dump writes unquoted identifiers in lower case."""
        plain = self.text[1:-1].replace(b'""', b'"') if self.kind is Kind.QUOTED else self.text
        return plain.decode("utf-8", "surrogateescape")


_CONTINUED = rb"(?:[ \t\f\v]*[\r\n]\s*'%b*')*"
_ESCAPED = rb"(?:[^'\\]|\\.|'')"
_PLAIN = rb"(?:[^']|'')"
_TAG = rb"(?P<tag>(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?)"
_TOKEN = re.compile(
    rb"(?P<space>\s+|--[^\r\n]*)"
    rb"|(?P<string>"
    + (rb"[eE]'" + _ESCAPED + rb"*'" + _CONTINUED % _ESCAPED)
    + (rb"|(?:[bBnNxX]|[uU]&)?'" + _PLAIN + rb"*'" + _CONTINUED % _PLAIN)
    + (rb"|\$" + _TAG + rb"\$.*?\$(?P=tag)\$)")
    + rb'|(?P<quoted>"(?:[^"]|"")+")'
    rb"|(?P<word>[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*)"
    rb"|(?P<other>[0-9][0-9A-Za-z_.]*|\$[0-9]+|/(?!\*)|-(?!-)|[^\s'\"$/\-])",
    re.DOTALL,
)
_KINDS = {**{kind.value: kind for kind in Kind}, "tag": Kind.STRING}
_COMMENT = re.compile(rb"/\*|\*/")


def tokens(text: bytes) -> Iterator[Token]:
    """The tokens without white space and comments. Raises INTERNAL if no token begins at a position or one
    does not end."""
    at = 0
    while at < len(text):
        if text.startswith(b"/*", at):
            at = _comment_end(text, at)
            continue
        match = _TOKEN.match(text, at)
        if match is None:
            raise _unfinished(at)
        if match["space"] is None:
            yield Token(_KINDS[match.lastgroup or ""], at, match.end(), match[0])
        at = match.end()


def _comment_end(text: bytes, start: int) -> int:
    """The end of a comment. Comments can be nested."""
    depth = 0
    for match in _COMMENT.finditer(text, start):
        depth += 1 if match[0] == b"/*" else -1
        if not depth:
            return match.end()
    raise _unfinished(start)


def _unfinished(at: int) -> PgmigError:
    return PgmigError(ErrorKind.INTERNAL, f"SQL of the schema cannot be read from byte {at} on")


def statements(text: bytes) -> list[list[Token]]:
    """The tokens of each statement, including the semicolon at its end. Raises INTERNAL if the last statement
    has none."""
    found: list[list[Token]] = [[]]
    for token in tokens(text):
        found[-1].append(token)
        if token.is_mark(b";"):
            found.append([])
    if found.pop():
        raise _unfinished(len(text))
    return found


def source(text: bytes, of: list[Token]) -> bytes:
    """The original text of consecutive tokens."""
    return text[of[0].start : of[-1].end]
