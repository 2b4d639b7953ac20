"""What the decoder needs from a message without parsing its row: a look at the first bytes.

The rest of the message is not checked; the applier parses it completely. `streaming` is as
for `parse`. All functions raise PgOutputError if the bytes that they read are missing.
"""

from __future__ import annotations

import struct

from services.shared.pgoutput.errors import corrupt
from services.shared.pgoutput.messages import Kind, Truncate
from services.shared.pgoutput.parser import parse

_KINDS: dict[int, Kind] = {int(kind): kind for kind in Kind}
_CHANGES = frozenset(map(int, (Kind.INSERT, Kind.UPDATE, Kind.DELETE)))

_u32 = struct.Struct(">I").unpack_from


def kind(message: bytes | memoryview) -> Kind:
    """The kind of the message. A hot loop should compare it with members bound to local names."""
    try:
        return _KINDS[message[0]]
    except (IndexError, KeyError) as exc:
        raise corrupt(message, "no such message is known") from exc


def relation_oid_of(message: bytes | memoryview, *, streaming: bool = False) -> int | None:
    """The relation that an Insert, Update or Delete changes; None for any other message."""
    try:
        if message[0] not in _CHANGES:
            return None
        (oid,) = _u32(message, 5 if streaming else 1)
    except (IndexError, struct.error) as exc:
        raise corrupt(message, "it ends too early") from exc
    return int(oid)


def truncate_oids(message: bytes | memoryview, *, streaming: bool = False) -> tuple[int, ...]:
    """The relations that a Truncate empties; none for any other message."""
    if kind(message) is not Kind.TRUNCATE:
        return ()
    truncate = parse(message, streaming=streaming)
    assert isinstance(truncate, Truncate)
    return truncate.relation_oids
