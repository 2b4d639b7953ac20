"""What the coordinator knows of hooks and poolers apart from a switchover's options."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from services.shared.model import HookName
from services.shared.pg.pooler.console import has_password, same_console, with_secrets_of, without_password


@dataclass(frozen=True, slots=True)
class HookSettings:
    """commands: those of the coordinator's settings, which are used where a switchover has none.
    from_clients: whether clients may give commands. pooler_uris: connection strings of consoles, for their
    passwords."""

    commands: dict[HookName, str] = field(default_factory=dict)
    from_clients: bool = False
    pooler_uris: tuple[str, ...] = field(default=(), repr=False)


class KnownPoolers:
    """The connection strings of poolers with their passwords, by those without. They are kept in memory only.

    One that the pooler's console has accepted is not replaced by another before the console has accepted that
    one too: RESUME needs it.
    """

    def __init__(self, settings: HookSettings) -> None:
        self._settings = settings
        self._given: dict[str, str] = {}
        self._proven: dict[str, str] = {}

    def give(self, uris: Iterable[str]) -> None:
        """Those of a request that was accepted. One without a password says nothing. Raises
        INVALID_ARGUMENT."""
        self._given |= {without_password(uri): uri for uri in uris if has_password(uri)}

    def with_given(self, uris: Iterable[str]) -> KnownPoolers:
        """A copy that has these, too. Raises INVALID_ARGUMENT."""
        copy = KnownPoolers(self._settings)
        copy._given, copy._proven = dict(self._given), dict(self._proven)
        copy.give(uris)
        return copy

    def proven(self, recorded: str, uri: str) -> None:
        """The console has accepted it."""
        self._proven[recorded] = uri

    def last_given(self, recorded: str) -> str:
        """The one that was given last, which may be wrong. Otherwise as `uri`."""
        return self._given.get(recorded) or self.uri(recorded)

    def uri(self, recorded: str) -> str:
        """With the password that its console has accepted, or that was given for it, or that the settings
        have for the same console and user. Otherwise libpq's password file may have it."""
        for known in (self._proven, self._given):
            if recorded in known:
                return known[recorded]
        for uri in self._settings.pooler_uris:
            if same_console(uri, recorded):
                return with_secrets_of(recorded, uri)
        return recorded
