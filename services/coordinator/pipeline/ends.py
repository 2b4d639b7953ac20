"""The connection strings of the ends of one pipeline.

A migration knows those of its source and of its destination. The forward pipeline replicates from the one to
the other, the reverse pipeline back. So what reads from one end of a pipeline and writes to the other takes
them from here, and works in both directions.
"""

from __future__ import annotations

from services.coordinator.pipeline.credentials import Credentials, KnownCredentials
from services.shared.model import Direction


class PipelineEnds:
    """source: the end that the pipeline replicates from. destination: the one that it replicates to.
    of_migration: what knows both."""

    def __init__(self, of_migration: KnownCredentials, direction: Direction) -> None:
        self.of_migration = of_migration
        self._forward = direction is Direction.FORWARD

    def _placed(self, found: Credentials) -> Credentials:
        return found if self._forward else found.swapped()

    @property
    def known(self) -> Credentials:
        """The connection strings that are known now. Nothing is looked up."""
        return self._placed(self.of_migration.known)

    async def both(self) -> Credentials:
        """Both connection strings. Waits for `resume` while they are unknown."""
        return self._placed(await self.of_migration.both())

    async def find_primaries(self, *, again: bool = True) -> bool:
        """Find the primary of both ends. again: also where it was found before. Returns whether one is
        another server than before. Raises UNREACHABLE."""
        return await self.of_migration.find_primaries(again=again)

    async def source(self, *, again: bool = True) -> str:
        """Like `both`, if only the source is needed. again: see `known_source`."""
        known = self.of_migration
        return await (known.source if self._forward else known.destination)(again=again)

    async def known_source(self, *, again: bool = True) -> str:
        """Like `source`, but raises CREDENTIALS_NEEDED instead of waiting. again: find the primary again,
        if there are several servers."""
        known = self.of_migration
        return await (known.known_source if self._forward else known.known_destination)(again=again)

    async def known_destination(self, *, again: bool = True) -> str:
        """Like `known_source`, for the destination."""
        known = self.of_migration
        return await (known.known_destination if self._forward else known.known_source)(again=again)

    async def check_known(self) -> None:
        """Raises CREDENTIALS_NEEDED unless both connection strings are known."""
        await self.of_migration.check_known()
