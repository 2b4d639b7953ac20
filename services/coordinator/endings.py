"""The commands that end a migration: finalize, abort, cleanup."""

from __future__ import annotations

from dataclasses import replace

from services.coordinator.commanded import Commanded, wrong_phase
from services.coordinator.migration.failpoints import BOTH_WAYS, Point, at_point
from services.coordinator.migration.state import Migration
from services.coordinator.operations import both_ways, settling, teardown
from services.coordinator.operations.switchover import store
from services.coordinator.pipeline.credentials import GIVE_UP, Credentials, judge
from services.shared.model import CleanupResult, EventLevel, MigrationPhase, PgmigError, Phase


class Endings(Commanded):
    async def finalize(self, given: Credentials) -> None:
        """End the replication back, or in both directions. What is on a server that cannot be reached is
        recorded as left, and `cleanup` removes it.

        Raises WRONG_PHASE unless the destination has replaced the source and changes are replicated back, and
        everything is done that follows the last change of direction; or both sides are written to. In that
        case it waits until each side has what the other one had committed, and raises TIMEOUT if that takes
        too long.

        The end is stored before anything is removed. A coordinator that dies meanwhile leaves the rest to
        `cleanup`, or to a second call.
        """
        async with self._commanded() as migration:
            again, phase = migration.record.finalized, migration.record.phase
            if phase not in {MigrationPhase.REVERSE, MigrationPhase.BIDIRECTIONAL} and not again:
                hint = "it ends the replication back after `switchover --reverse`, or in both directions"
                raise wrong_phase(migration, "finalized", hint)
            self._check_not_switching("finalized")
            opening = not again and settling.closed(self._context)
            if migration.operations.current is not None or opening:
                raise wrong_phase(migration, "finalized", "wait until the destination accepts writes")
            judged = await judge(migration.record, given, GIVE_UP)
            judged.check()
            await self._context.journal.confirm()
            self._credentials.take_over(judged)
            if not again:
                await self._finalized(migration)
            await self._release_all()
            await both_ways.part(self.loop.pipelines)
            self._report(await teardown.remove_replication(self._contexts, self._bus))
            await self._context.journal.save()
            self.loop.watch_old_source()

    async def _finalized(self, migration: Migration) -> None:
        """Store the end."""
        both = migration.record.phase is MigrationPhase.BIDIRECTIONAL
        if both:
            if not all(one.context.pipeline.running for one in self._working):
                hint = "resume it first, so that each side receives what the other one has committed"
                raise wrong_phase(migration, "finalized", hint)
            await both_ways.exchange(self.loop.pipelines)
        await self.loop.halt()
        if both:
            migration.both_ended()
        else:
            migration.finalized()
        await self._context.journal.save(strict=True)
        await at_point(BOTH_WAYS if both else migration.operations.kind, Point.FINALIZED)

    async def abort(self, given: Credentials) -> None:
        """Give up: slot, publication and origin go, copied data stays. It is recorded first, because without
        one of these the migration cannot be continued. What cannot be removed is recorded as left."""
        async with self._commanded() as migration:
            if migration.phase is Phase.ABORTED:
                return
            if migration.phase.ended or migration.phase is Phase.SWITCHOVER:
                raise wrong_phase(migration, "aborted")
            if migration.record.phase in {MigrationPhase.REVERSE, MigrationPhase.ROLLBACK}:
                hint = "the destination has replaced the source: use `pgmig-cli rollback` or `finalize`"
                raise wrong_phase(migration, "aborted", hint)
            self._check_not_switching("aborted")
            judged = await judge(migration.record, given, GIVE_UP)
            judged.check()
            await self._context.journal.confirm()
            self._credentials.take_over(judged)
            await self.loop.halt()
            await self._release_all()
            try:
                thawed = await teardown.thaw_first(self._contexts, self._bus)
            except PgmigError:
                self.loop.begin()  # it is not aborted, so it continues
                raise
            await self._end()
            try:
                await both_ways.part(self.loop.pipelines)
                result = await teardown.remove_replication(self._contexts, self._bus)
                self._report(replace(result, removed=(*thawed, *result.removed)))
                await self._context.journal.save()
            finally:
                self.loop.watch_old_source()  # and open the destination, if that was not possible

    async def _end(self) -> None:
        """Record that it is aborted, before anything is removed. Raises FENCED."""
        self.migration.aborted()
        self.loop.switching.settle()
        await store(self._context)

    async def _end_reverse(self) -> None:
        """The destination serves writers, also after a rollback that could not be undone: it is opened first.
        Raises what prevents that, and FENCED."""
        migration = self.migration
        if migration.in_switchover:
            await teardown.thaw_first(self._contexts, self._bus)
            migration.switchover_undone()
            self.loop.switching.settle()
        migration.finalized()
        await store(self._context)

    def _report(self, result: CleanupResult) -> None:
        for line in result.removed:
            self.migration.event(EventLevel.INFO, f"removed {line}")
        for line in result.left:
            self.migration.event(EventLevel.WARNING, f"not removed: {line}")
        self.migration.left_behind(result.left)

    async def cleanup(self, given: Credentials, *, force: bool) -> CleanupResult:
        """Remove everything the migration left; the caller forgets it if it is marked as removed then. Raises
        WRONG_PHASE.

        If a server cannot be reached, what is there is recorded as left, and the migration, which cannot be
        continued any more, is kept for another cleanup. force: also while it runs, and it is removed whatever
        is left, also if a server is not given.
        """
        async with self._commanded() as migration:
            if any(one.context.pipeline.running for one in self._working) and not force:
                raise wrong_phase(migration, "cleaned up", "pause or abort it first, or use --force")
            if not self.loop.switching.opening:
                self._check_not_switching("cleaned up")
            judged = await judge(migration.record, given, GIVE_UP)
            if not force:
                judged.check()
            await teardown.check_ours(self._context, force=force)
            self._credentials.take_over(judged)
            await self.loop.switching.leave()
            await self.loop.halt()
            await self.loop.unwatch()
            await self._release_all()
            if not (migration.phase.ended or (force and migration.in_switchover)):
                if migration.record.phase in {MigrationPhase.REVERSE, MigrationPhase.ROLLBACK}:
                    await self._end_reverse()
                else:
                    await self._end()
            try:
                await both_ways.part(self.loop.pipelines)
                result = await teardown.remove_all(
                    self._contexts, self._schema.files, self._bus, judged.refused, force=force
                )
                if not migration.removed:
                    self._report(result)
                    await self._context.journal.save()
            finally:
                if not migration.removed:
                    self.loop.watch_old_source()
            return result
