"""What the web server gets from whoever starts it: where it listens, and where migrations are found.

The command line implements `Places`, because only it knows the embedded stacks of this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from services.shared.model import MigrationId, MigrationView, PgmigError


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """host, port: to listen on; port 0: any free one. allowed_hosts: names under which it may be reached,
    besides localhost and IP addresses. token_file: the file with the operator's token; None: the token of
    the environment, or else the one in own_token_file, which is created if it does not exist. allow_hooks:
    requests may contain commands, which the coordinator runs on its host."""

    host: str
    port: int
    allowed_hosts: tuple[str, ...]
    token_file: Path | None
    own_token_file: Path
    allow_hooks: bool = False


@dataclass(frozen=True, slots=True)
class Recorded:
    """The last view that a coordinator has recorded. written_at: Unix seconds."""

    view: MigrationView
    written_at: float


class Places(Protocol):
    """Where migrations are found. Any method may raise PgmigError. Those that are not coroutines read files,
    so call them in a thread."""

    @property
    def coordinator(self) -> str:
        """The address of the coordinator that runs every migration; "" if each has its own on this machine.
        The methods are then about the state directory of this machine."""

    def known(self) -> tuple[MigrationId, ...]: ...

    def address(self, migration_id: MigrationId) -> str:
        """Of the coordinator that runs the migration; "" if none does."""

    def recorded(self, migration_id: MigrationId) -> Recorded | None: ...

    def not_running(self, migration_id: MigrationId, doing: str) -> PgmigError:
        """The error that no coordinator runs the migration, or that it is not known. doing: "pause"."""

    def logs(self, migration_id: MigrationId) -> dict[str, Path]:
        """The log files of its programs, by name. Empty if they are on other machines."""

    async def certificate(self, migration_id: MigrationId, operation_id: str) -> dict[str, object]:
        """The document that `pgmig-cli certificate --output json` prints. operation_id: "" for the last."""

    async def keep_certificates(self, migration_id: MigrationId, *, force: bool) -> None:
        """Write the certificates to files before the migration is cleaned up."""


Announce = Callable[[str, str], None]
"""Called once the server listens, with its URL and a text that says where the operator's token is."""

Serve = Callable[[ServerSettings, Places, Announce], Coroutine[Any, Any, None]]
"""Serves until it is cancelled."""
