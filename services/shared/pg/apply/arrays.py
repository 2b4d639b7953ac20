"""Values as the text of a one-dimensional array, so that one parameter has a column of many rows.

Every element is quoted, so only backslashes and quotes need escapes ("Array Input and Output Syntax" in the
manual).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def array(values: Sequence[bytes | None]) -> bytes:
    """The text of an array. Usually there is no backslash or quote, and one join is enough."""
    if values and None not in values:
        joined = b'","'.join(values)  # type: ignore[arg-type]
        if b"\\" not in joined and joined.count(b'"') == 2 * (len(values) - 1):
            return b'{"' + joined + b'"}'
    return b"{" + b",".join(map(_element, values)) + b"}"


def column(rows: Sequence[Sequence[Any]], i: int) -> bytes:
    """`array` of the values in column `i`."""
    return array([row[i] for row in rows])


def _element(value: bytes | None) -> bytes:
    if value is None:
        return b"NULL"
    return b'"' + value.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'
