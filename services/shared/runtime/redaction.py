"""Credentials taken out of text, for everything that leaves the process as a log line.

The net is wide on purpose: a host hidden with a password costs little, a password shown
costs a lot. It covers user:password@ of any URI, the token of a NATS URL (which stands
where a user would), and password=, token= and the like in connection strings and queries.
"""

from __future__ import annotations

import re

MASK = "***"

# Up to the last @ of the word: a password may itself hold an unescaped : / or @.
_URI_PASSWORD = re.compile(r"(://[^:/?#@\s'\"]*):[^\s'\"]*@")
_NATS_TOKEN = re.compile(r"\b((?:nats|tls|wss?)://)(?![^@\s'\"]*\*\*\*@)[^\s'\"]*@", re.IGNORECASE)
_KEY = r"(?:ssl)?password|passwd|passphrase|token|secret"
_ASSIGNED = re.compile(
    rf"((?:{_KEY})[\"']?\s*[=:]\s*)('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\s&,;}}]+)", re.IGNORECASE
)


def redact(text: str) -> str:
    """`text` without the credentials in it."""
    text = _URI_PASSWORD.sub(rf"\1:{MASK}@", text)
    text = _NATS_TOKEN.sub(rf"\1{MASK}@", text)
    return _ASSIGNED.sub(rf"\1{MASK}", text)
