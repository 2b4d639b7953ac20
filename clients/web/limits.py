"""Limits of what a client can make the server keep, and for how long."""

from __future__ import annotations

import resource
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Limits:
    """body_bytes: of a request. head_bytes: of its first line and headers. arrival_s: the time in which a
    request must arrive. request_s: the longest time until it is answered; the coordinator's own limits are
    shorter. connections, sockets: at the same time, WebSockets included in both. slow_s: the time in which a
    client must read what is sent to it, or at least 64 kB of it; a WebSocket the message before the last one.
    closing_s: how long a client whose connection is closed, also a dropped WebSocket, may take to read the
    rest. change_s: the shortest time between two changes. linger_s: how long a migration is
    watched after its last WebSocket has ended, so that a client can resume."""

    body_bytes: int = 256 << 10
    head_bytes: int = 16 << 10
    arrival_s: float = 10.0
    request_s: float = 150.0
    connections: int = 1024
    sockets: int = 512
    slow_s: float = 10.0
    closing_s: float = 5.0
    change_s: float = 0.5
    linger_s: float = 60.0


DEFAULT_LIMITS = Limits()

_OTHER_FILES = 256
"""Of the server itself: connections to coordinators, state files, logs, connections not yet counted."""


def fitting(limits: Limits, files: int) -> Limits:
    """Fewer connections if the process may not have that many files. files: as of `ulimit -n`."""
    if files == resource.RLIM_INFINITY:
        return limits
    connections = max(1, files - min(_OTHER_FILES, files // 2))
    return replace(limits, connections=min(limits.connections, connections))
