"""Settings of a service: environment variables with the prefix PGMIG_, and nothing else.

An empty variable counts as unset. Values that hold credentials show neither in a repr nor in an
error. Read by hand: what would read them for us takes as long to import as all of PostgreSQL's driver.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from platformdirs import user_state_path

from services.shared.model import ErrorKind, PgmigError

ENV_PREFIX = "PGMIG_"
DEFAULT_COORDINATOR = "127.0.0.1:7432"


def setting(parse: Callable[[str], Any], *, secret: bool = False, **default: Any) -> Any:
    """A field of settings. parse: raises ValueError with the reason, which never holds the text.
    default: `default` or `default_factory`, as of dataclasses.field."""
    return field(repr=not secret, metadata={"parse": parse}, **default)


def address(text: str) -> str:
    """HOST:PORT, also [::1]:PORT."""
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ValueError("not an address of the form HOST:PORT")
    return text


def one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"not one of {', '.join(words)}")
        return text

    return parse


def whole_number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise ValueError(f"not a whole number from {least} to {most}")
        return int(text)

    return parse


def seconds(least: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            raise ValueError(f"not a number of seconds, {least:g} or more")
        return value

    return parse


def path(text: str) -> Path:
    return Path(text).expanduser()


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What every service and client reads; services extend it with their own.

    coordinator: where workers and clients dial. listen: where the coordinator serves; port 0
    takes a free one. port_file: the coordinator writes the address that it serves there.
    state_dir: PGMIG_STATE_DIR, or pgmig below XDG_STATE_HOME. source_uri, dest_uri: the
    coordinator's fallback credentials after a restart. health_listen: where a worker serves
    the standard gRPC health service; "" for not at all.
    """

    coordinator: str = setting(address, default=DEFAULT_COORDINATOR)
    listen: str = setting(address, default=DEFAULT_COORDINATOR)
    nats_url: str = setting(str, secret=True, default="nats://127.0.0.1:4222")
    state_dir: Path = setting(path, default_factory=lambda: user_state_path("pgmig"))
    log_level: str = setting(one_of("debug", "info", "warning", "error"), default="info")
    log_format: str = setting(one_of("text", "json"), default="text")
    worker_id: str = setting(str, default="")
    source_uri: str | None = setting(str, secret=True, default=None)
    dest_uri: str | None = setting(str, secret=True, default=None)
    port_file: Path | None = setting(path, default=None)
    health_listen: str = setting(address, default="")


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


def new_worker_id(role: str) -> str:
    """An id that no other process has: role, host, process id and a random part."""
    return f"{role}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def load_settings(role: str, kind: type[SettingsT]) -> SettingsT:
    """Settings of the service `role` from the environment.

    Raises PgmigError(INVALID_ARGUMENT) that names the first variable that is not valid.
    """
    given = {}
    for one in fields(kind):
        variable = f"{ENV_PREFIX}{one.name.upper()}"
        text = os.environ.get(variable)
        if not text:
            continue
        try:
            given[one.name] = one.metadata["parse"](text)
        except ValueError as exc:
            raise PgmigError(
                ErrorKind.INVALID_ARGUMENT,
                f"setting {variable} is not valid: {exc}",
                "correct the environment variable, or unset it for the default",
            ) from exc
    return kind(**{"worker_id": new_worker_id(role), **given})
