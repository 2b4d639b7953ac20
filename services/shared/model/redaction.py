"""Credentials taken out of text: the last net under everything that leaves the process.

The net is wide on purpose: a host hidden with a password costs little, a password shown costs a lot.
What replaces a credential does not depend on it. Text with a password of any letters but white space
is covered in URIs, with or without a scheme; of any letters at all in quotes, where they are escaped as
libpq and SQL want it: password='...', token: "...", PASSWORD '...'.
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
# Up to the last @ of the word: a password may itself hold an unescaped : / or @.
_IN_URI = re.compile(r"(://[^:/?#@\s'\"]*):\S*@")
_BEFORE_AT = re.compile(r"\b((?:nats|tls|wss?)://)\S*@", re.IGNORECASE)
# A password may begin with // and make the user's name look like a scheme.
_SCHEME = r"(?:postgres(?:ql)?|https?|grpcs?|nats|tls|wss?|unix|file)://"
_WITHOUT_SCHEME = re.compile(rf"(?<!\S)((?!{_SCHEME})[^\s:/@]*):\S*@", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` without the credentials in it."""
    text = _IN_QUERY.sub(rf"\1{MASK}", text)
    text = _ASSIGNED.sub(rf"\1{MASK}", text)
    text = _IN_SQL.sub(rf"\1{MASK}", text)
    text = _IN_URI.sub(rf"\1:{MASK}@", text)
    text = _BEFORE_AT.sub(_masked, text)
    return _WITHOUT_SCHEME.sub(rf"\1:{MASK}@", text)


def _masked(match: re.Match[str]) -> str:
    return match[0] if f":{MASK}@" in match[0] else f"{match[1]}{MASK}@"


def has_password(uri: str) -> bool:
    """Whether a connection string holds a password, as far as its text shows it."""
    return redact(uri) != uri
