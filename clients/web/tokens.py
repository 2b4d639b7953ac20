"""The operator's token: where it comes from, and whether a request has it.

It is in the file that --token-file names, or in PGMIG_WEB_TOKEN, or in a file of the state directory that the
server creates with mode 0600 and uses again after a restart. It is compared in constant time, and it is
neither logged nor accepted in a URL.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from clients.diagnostics import warn
from clients.serving import ServerSettings
from services.shared.model import ErrorKind, PgmigError
from services.shared.runtime.files import replace_file

VARIABLE = "PGMIG_WEB_TOKEN"
SHORTEST = 20
"""Characters."""
_LONGEST = 1024


class Token:
    """Keeps only the digest. place: where an operator finds it, for a message."""

    def __init__(self, text: str, place: str) -> None:
        """Raises PgmigError(INVALID_ARGUMENT) for a token that cannot be sent in a header, or is short."""
        if not (text.isascii() and text.isprintable() and " " not in text):
            raise _unusable(place, "it has characters other than the visible ones of ASCII")
        if not SHORTEST <= len(text) <= _LONGEST:
            raise _unusable(place, f"it has {len(text)} characters, and may have {SHORTEST} to {_LONGEST}")
        self._digest = _digest(text)
        self.place = place

    def matches(self, given: str) -> bool:
        """Takes equally long for any token of one length."""
        return hmac.compare_digest(_digest(given), self._digest)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def load_token(settings: ServerSettings, environment: Mapping[str, str] = os.environ) -> Token:
    """Raises PgmigError(INVALID_ARGUMENT)."""
    if settings.token_file is not None:
        token = Token(_first_line(settings.token_file), f"in {settings.token_file}")
        if settings.token_file.stat().st_mode & 0o077:
            warn(
                f"other users of this machine may read the operator's token in {settings.token_file}: run "
                f"`chmod go= {settings.token_file}`"
            )
        return token
    if VARIABLE in environment:
        return Token(environment[VARIABLE].strip(), f"the one in {VARIABLE}")
    return _own_token(settings.own_token_file)


def _own_token(path: Path) -> Token:
    """Make a new one unless the file is there, ours, and never was readable for others."""
    place = f"in {path}"
    try:
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
            return Token(_first_line(path), place)
    except FileNotFoundError:
        pass
    text = secrets.token_urlsafe(32)
    try:
        replace_file(path, f"{text}\n")
    except OSError as exc:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"the operator's token cannot be written to {path}: {exc.strerror}",
            f"choose another --state-dir, or give the token with --token-file or {VARIABLE}",
        ) from exc
    return Token(text, place)


def _first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline(_LONGEST + 2).strip()
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8"
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"the file with the operator's token, {path}, cannot be read: {why}",
            "put the token into its first line, or name another file with --token-file",
        ) from None


def _unusable(place: str, why: str) -> PgmigError:
    return PgmigError(
        ErrorKind.INVALID_ARGUMENT,
        f"the operator's token, {place}, cannot be used: {why}",
        "make one with `openssl rand -hex 32`",
    )
