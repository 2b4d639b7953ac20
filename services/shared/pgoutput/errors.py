"""The parser's errors. They are PgmigError(CORRUPT), because the bus is untrusted input.

Their texts contain the kind of the pgoutput message, its size and the problem, but no row values.
"""

from __future__ import annotations

from services.shared.model import ErrorKind, PgmigError
from services.shared.pgoutput.messages import Kind

_READ_AGAIN = (
    "resume, so that the change is read again from the replication slot; "
    "if it fails again, report it with the source's version"
)
_NAMES = {int(kind): kind.name for kind in Kind}


class PgOutputError(PgmigError):
    """The bytes are not one complete, well-formed pgoutput message."""

    def __init__(self, message: str, hint: str = _READ_AGAIN) -> None:
        super().__init__(ErrorKind.CORRUPT, message, hint)


class UnsupportedMessageError(PgOutputError):
    """A message that only two-phase decoding sends, which pgmig's slots never enable."""

    def __init__(self, data: bytes) -> None:
        super().__init__(
            f"pgoutput message {name_of(data)} belongs to two-phase decoding, which is not supported",
            "read the slot without the two_phase option",
        )


def name_of(data: bytes | memoryview) -> str:
    """The name of the message's kind, or its first byte if the kind is unknown."""
    return _NAMES.get(data[0], f"{data[0]:#04x}")


def corrupt(data: bytes | memoryview, what: str) -> PgOutputError:
    """The error for the damaged message `data`."""
    if len(data) == 0:
        return PgOutputError("a pgoutput message is empty")
    return PgOutputError(f"pgoutput message {name_of(data)} of {len(data)} bytes is damaged: {what}")
