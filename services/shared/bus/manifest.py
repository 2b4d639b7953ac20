"""A value larger than one broker message: its fragments, and the manifest that represents it.

The manifest is stored under the value's key. The fragments have their own keys, which contain the digest of
the value, so fragments of two values never mix. The manifest is written when all fragments are stored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

_FORM = re.compile(rb"pieces of a value: (?P<digest>[0-9a-f]{64}) (?P<count>\d{1,6})")


@dataclass(frozen=True, slots=True)
class Manifest:
    """digest: SHA-256 of the value, in hexadecimal. count: the number of its fragments."""

    digest: str
    count: int

    @classmethod
    def of(cls, head: bytes) -> Self | None:
        """The manifest stored under a key; None if `head` is the value itself."""
        form = _FORM.fullmatch(head)
        return cls(form["digest"].decode(), int(form["count"])) if form else None

    def encode(self) -> bytes:
        return f"pieces of a value: {self.digest} {self.count}".encode()

    def keys(self, key: str) -> list[str]:
        return [f"{key}.{self.digest}.{number}" for number in range(self.count)]

    def fits(self, value: bytes) -> bool:
        return hashlib.sha256(value).hexdigest() == self.digest


def divided(value: bytes, at_most: int) -> tuple[Manifest, Sequence[bytes]] | None:
    """Fragments of `at_most` bytes; None for a value that is small and cannot be mistaken for a manifest."""
    if len(value) <= at_most and Manifest.of(value) is None:
        return None
    fragments = [value[start : start + at_most] for start in range(0, len(value), at_most)]
    return Manifest(hashlib.sha256(value).hexdigest(), len(fragments)), fragments
