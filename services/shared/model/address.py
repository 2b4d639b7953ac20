"""The address of a coordinator: HOST:PORT, or unix:PATH, a socket that only its user can connect to."""

from __future__ import annotations

import re
from pathlib import Path

UNIX = "unix:"
LONGEST_SOCKET_PATH = 103
"""Bytes. The kernel's address has room for 107 on Linux and 103 elsewhere (unix(7))."""
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9/._+@=,~-]*")
FORMS = "HOST:PORT or unix:/PATH"


def check_address(text: str) -> str:
    """Return `text` if it is HOST:PORT, also [::1]:PORT, or unix:/PATH. Raises ValueError."""
    if text.startswith(UNIX):
        if not fits_socket(Path(text.removeprefix(UNIX))):
            raise ValueError(
                "not the absolute path of a socket, "
                f"of up to {LONGEST_SOCKET_PATH} bytes and without special characters"
            )
        return text
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ValueError(f"not an address of the form {FORMS}")
    return text


def fits_socket(path: Path) -> bool:
    """Whether `path` can be a socket. gRPC reads it as part of a URI, so few characters are allowed."""
    text = str(path)
    return len(text.encode(errors="replace")) <= LONGEST_SOCKET_PATH and bool(_PLAIN_PATH.fullmatch(text))


def unix_address(path: Path) -> str:
    return f"{UNIX}{path}"


def socket_path(address: str) -> Path | None:
    """The path in a unix: address; None for another address."""
    return Path(address.removeprefix(UNIX)) if address.startswith(UNIX) else None
