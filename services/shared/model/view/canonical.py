"""Canonical JSON (RFC 8785) and its digest, for the documents that a certificate is made of.

Such a document has objects, arrays, text, whole numbers below 2^53, true, false and null. Canonical are: keys
sorted, no white space, UTF-8, only those characters escaped that JSON requires. The digest is the SHA-256 of
these bytes. Reading is strict: what two readers may understand differently is refused.
"""

from __future__ import annotations

import hashlib
import json
from typing import NoReturn

LARGEST = 2**53 - 1
"""Readers of JSON may keep numbers as doubles."""


def canonical(document: object) -> str:
    """Raises ValueError for a value that the canonical form does not have."""
    _check(document)
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(text: str) -> str:
    """SHA-256 in hexadecimal, of canonical JSON."""
    return hashlib.sha256(text.encode()).hexdigest()


def encodable(value: object) -> object:
    """Plain JSON without the halves of surrogate pairs, which UTF-8 does not have. They become U+FFFD. Names
    that a server does not send in UTF-8 may contain them."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    if isinstance(value, list):
        return [encodable(item) for item in value]
    if isinstance(value, dict):
        return {key: encodable(item) for key, item in value.items()}
    return value


def read_strictly(text: str) -> object:
    """Raises ValueError for text that is not one JSON document, and for duplicate keys and numbers that are
    not whole or too large."""
    try:
        value: object = json.loads(
            text, object_pairs_hook=_unique, parse_float=_refuse_number, parse_constant=_refuse_number
        )
    except json.JSONDecodeError as exc:
        raise ValueError(f"it is not one JSON document: {exc}") from exc
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    _check(value)
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {twice!r} twice")
    return found


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:40]} is not a whole number")


def _check(value: object) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str) or not key.isascii():
                raise ValueError(f"the key {key!r} is not ASCII text")
            _check(item)
    elif isinstance(value, list):
        for item in value:
            _check(item)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise ValueError("it has text that UTF-8 does not have") from exc
    elif isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > LARGEST:
            raise ValueError("it has a number beyond 2^53")
    elif value is not None and not isinstance(value, bool):
        raise ValueError(f"{type(value).__name__} has no canonical form")
