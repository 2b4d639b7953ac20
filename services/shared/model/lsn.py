"""`Lsn`: a byte position in PostgreSQL's write-ahead log."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


@dataclass(frozen=True, slots=True, order=True)
class Lsn:
    """A 64-bit WAL position in bytes, written as PostgreSQL's pg_lsn: two hexadecimal halves."""

    value: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.value < 1 << 64:
            raise ValueError(f"LSN out of range: {self.value}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `16/B374D848`; raises ValueError on anything else."""
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"not an LSN: {text!r}")
        return cls(int(match[1], 16) << 32 | int(match[2], 16))

    def __str__(self) -> str:
        return f"{self.value >> 32:X}/{self.value & 0xFFFFFFFF:X}"

    def __bool__(self) -> bool:
        """False for 0/0, PostgreSQL's invalid LSN."""
        return self.value != 0

    def __sub__(self, other: Lsn) -> int:
        """Distance in bytes."""
        return self.value - other.value
