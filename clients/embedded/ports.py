"""Free loopback ports for servers that must use the same port after a restart."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from services.shared.model import ErrorKind, PgmigError

_LOWEST = 15000
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_FLOOR = 32768
_ATTEMPTS = 200


def free_port() -> int:
    """A port on 127.0.0.1 that nothing listens on, below the range of outgoing connections.

    A port in that range can be used by any outgoing connection while its server is down,
    even by the client that tries to reconnect to it. Raises PgmigError(INTERNAL).
    """
    ceiling = _ephemeral_floor()
    candidates = range(min(_LOWEST, max(1024, ceiling - 1000)), ceiling)
    for port in random.sample(candidates, min(_ATTEMPTS, len(candidates))):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise PgmigError(ErrorKind.INTERNAL, f"no free port found on 127.0.0.1 below {ceiling}")


def _ephemeral_floor() -> int:
    try:
        floor = int(_EPHEMERAL_RANGE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return _EPHEMERAL_FLOOR
    return max(floor, 2048)
