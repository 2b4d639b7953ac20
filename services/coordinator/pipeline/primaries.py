"""The primary of each side, where a connection string names several servers.

The connection strings that are recorded and that operators give name all servers. What works with a database,
in the coordinator and in the workers, gets a connection string with the primary's host only. So one migration
never uses two servers of a list at the same time.
"""

from __future__ import annotations

from services.shared.pg.session.primary import find_primary


class Primaries:
    """Of one migration."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, str]] = {}

    def narrowed(self, side: str, uri: str) -> str:
        """`uri` with the primary's host only, as last found. `uri` itself if it was not looked for yet."""
        given, primary = self._found.get(side, ("", ""))
        return primary if given == uri else uri

    def known(self, side: str, uri: str) -> bool:
        return self._found.get(side, ("", ""))[0] == uri

    async def find(self, side: str, uri: str, system_identifier: str = "", database: str = "") -> bool:
        """Find the primary, as `find_primary`. Returns whether it is another server than before."""
        before = self.narrowed(side, uri) if self.known(side, uri) else ""
        primary = await find_primary(uri, side, system_identifier, database, before)
        self._found[side] = uri, primary
        return before not in {"", primary}
