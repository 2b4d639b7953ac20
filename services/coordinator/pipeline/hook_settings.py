"""What the coordinator knows of hooks and poolers apart from a switchover's options."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.shared.model import HookName
from services.shared.pg.pooler.console import same_console, with_secrets_of, without_password


@dataclass(frozen=True, slots=True)
class HookSettings:
    """commands: those of the coordinator's settings, which are used where a switchover has none.
    from_clients: whether clients may give commands. pooler_uris: connection strings of consoles, for their
    passwords."""

    commands: dict[HookName, str] = field(default_factory=dict)
    from_clients: bool = False
    pooler_uris: tuple[str, ...] = field(default=(), repr=False)


class KnownPoolers:
    """The connection strings of poolers with their passwords. They are kept in memory only."""

    def __init__(self, settings: HookSettings) -> None:
        self._settings = settings
        self._given: dict[str, str] = {}

    def accept(self, uri: str) -> str:
        """Remember it. Returns it without its password, for the record. Raises INVALID_ARGUMENT."""
        recorded = without_password(uri)
        self._given[recorded] = uri
        return recorded

    def uri(self, recorded: str) -> str:
        """With the password that was given for it, or that the settings have for the same console and user.
        Otherwise libpq's password file may have it."""
        if recorded in self._given:
            return self._given[recorded]
        for uri in self._settings.pooler_uris:
            if same_console(uri, recorded):
                return with_secrets_of(recorded, uri)
        return recorded
