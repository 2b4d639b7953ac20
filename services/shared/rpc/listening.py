"""Where a server listens: a TCP port, or a Unix socket that only this user can connect to.

gRPC does not report who is at the other end of a socket, so the kernel must decide who may connect. The
directory of the socket must be ours with mode 0700, and the socket gets mode 0600 (unix(7)).
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

from grpc import aio

from services.shared.model import ErrorKind, PgmigError, socket_path


def bind(server: aio.Server, listen: str, variable: str) -> str:
    """Listen on HOST:PORT (0 for a free port) or unix:PATH, and return the address. variable: the name of
    the setting, for errors. Raises INVALID_ARGUMENT."""
    path = socket_path(listen)
    if path is not None:
        _check_place(path, variable)
    try:
        port = server.add_insecure_port(listen)
    except RuntimeError as exc:
        raise _taken(listen, variable) from exc
    if path is not None:
        path.chmod(0o600)
        return listen
    return f"{listen.rpartition(':')[0]}:{port}"


def _check_place(path: Path, variable: str) -> None:
    """Check the path, since gRPC would replace the socket of a running server, and any user's file."""
    try:
        directory = path.parent.stat()
    except OSError as exc:
        raise _unusable(path, f"its directory: {exc.strerror}", variable) from exc
    if directory.st_uid != os.geteuid() or directory.st_mode & 0o077:
        raise _unusable(path, "its directory must be accessible to this user only (mode 0700)", variable)
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise _unusable(path, "there is a file that is no socket", variable)
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return  # left by a process that has ended
    raise _taken(f"unix:{path}", variable)


def _taken(listen: str, variable: str) -> PgmigError:
    return PgmigError(
        ErrorKind.INVALID_ARGUMENT,
        f"cannot listen on {listen}",
        f"another process may listen there already: choose another address with {variable}",
    )


def _unusable(path: Path, why: str, variable: str) -> PgmigError:
    return PgmigError(
        ErrorKind.INVALID_ARGUMENT,
        f"cannot listen on the socket {path}: {why}",
        f"choose a path in a private directory with {variable}",
    )
