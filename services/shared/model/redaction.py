"""Removing credentials from text: the last protection for everything that leaves the process.

Redaction hides too much on purpose: a hidden host costs little, a visible password costs a lot. The
replacement does not depend on the credential. In URIs, with or without a scheme, a password of any
characters except white space is found. In quotes, a password of any characters is found if they are
escaped as in libpq and SQL: password='...', token: "...", PASSWORD '...'.
"""

from __future__ import annotations

import re

MASK = "***"

_KEY = r"(?:(?:ssl)?password|passwd|passphrase|token|secret)"
_QUOTED = r"'(?:[^'\\]|\\.|'')*(?:'|\Z)|\"(?:[^\"\\]|\\.)*(?:\"|\Z)"
_IN_QUERY = re.compile(rf"((?<=[?&]){_KEY}=)[^\s&]*", re.IGNORECASE)
_ENDS = r"(?=[,;)}\]]*(?:\s|\Z))"
_ASSIGNED = re.compile(
    rf"((?<![?&]){_KEY}[\"']?\s*[=:]\s*)((?:{_QUOTED}){_ENDS}|\S+)", re.IGNORECASE | re.DOTALL
)
_IN_SQL = re.compile(rf"({_KEY}\s+)(?:{_QUOTED})", re.IGNORECASE | re.DOTALL)
# Up to the last @ of the word, because a password can contain an unescaped : / or @.
_IN_URI = re.compile(r"(://[^:/?#@\s'\"]*):\S*@")
_BEFORE_AT = re.compile(r"\b((?:nats|tls|wss?)://)\S*@", re.IGNORECASE)
# A password can begin with //, and then the user's name looks like a scheme.
_SCHEME = r"(?:postgres(?:ql)?|https?|grpcs?|nats|tls|wss?|unix|file)://"
_WITHOUT_SCHEME = re.compile(rf"(?<!\S)((?!{_SCHEME})[^\s:/@]*):\S*@", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` without credentials."""
    text = _IN_QUERY.sub(rf"\1{MASK}", text)
    text = _ASSIGNED.sub(rf"\1{MASK}", text)
    text = _IN_SQL.sub(rf"\1{MASK}", text)
    text = _IN_URI.sub(rf"\1:{MASK}@", text)
    text = _BEFORE_AT.sub(_masked, text)
    return _WITHOUT_SCHEME.sub(rf"\1:{MASK}@", text)


def _masked(match: re.Match[str]) -> str:
    return match[0] if f":{MASK}@" in match[0] else f"{match[1]}{MASK}@"


def has_password(uri: str) -> bool:
    """Whether a connection string contains a password that can be recognized in its text."""
    return redact(uri) != uri
