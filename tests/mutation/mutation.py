"""One line to break, and the test that must notice it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutation:
    """Replace `old` by `new` in `file`; `test` (a pytest node or file) must fail."""

    rule: str
    file: str
    old: str
    new: str
    test: str
