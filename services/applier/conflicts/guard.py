"""Conflicts of a session of the applier: found before a group is written, resolved and recorded with it.

The keys of a group are looked up in sets. If every one of them is as the other side knew it, the group is
written as it would be without this. Otherwise its steps are replaced by those that remain after resolving.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from services.applier.compact import Step, Truncation
from services.applier.conflicts.resolving import (
    ConflictError,
    Resolving,
    Timed,
    conflict_at,
    expected_keys,
    stopped,
    timed,
)
from services.applier.planner import Chunk
from services.shared.model import ErrorKind, PgmigError, PipelineId
from services.shared.model.conflicts.policy import Conflict, ConflictKind, Decision, OnConflict
from services.shared.model.conflicts.resolution import Local, decide
from services.shared.pg.apply.key_states import KeyStates
from services.shared.pg.apply.refusal import RefusedError
from services.shared.pg.apply.target_table import Operation, Statement, array
from services.shared.pg.bookkeeping import conflicts as book
from services.shared.pg.session.encoding import codec_of
from services.shared.pgoutput import Delete

log = logging.getLogger(__name__)

_RECORD, _KEEP_SEEN = Statement(book.RECORD.encode()), Statement(book.KEEP_SEEN.encode())

Write = Callable[[Sequence[Step]], list[Operation]]


class Settings(NamedTuple):
    """seen_us: what is recorded of what the other side has seen. encoding: as from `stored_encoding`."""

    pipeline: PipelineId
    policy: OnConflict
    seen_us: int
    encoding: str = ""


class Conflicts:
    def __init__(self, settings: Settings, states: KeyStates) -> None:
        self._settings = settings
        self._states = states
        self._recorded_us = settings.seen_us
        self._seen_us = settings.seen_us  # recorded with the open transaction
        self._open: list[Conflict] = []  # of the open transaction
        self._planned: list[Timed] = []  # the steps of the group before
        self._sent: list[tuple[Operation, Timed]] = []

    async def operations(
        self, group: Sequence[Chunk], planned: list[Operation], write: Write
    ) -> list[Operation]:
        """What to execute for the group: `planned` if nothing conflicts. Raises ConflictError."""
        steps = list(timed(group))
        kept, noted = await self._truncations(steps)
        self._planned = kept
        unexpected = await self._states.unexpected(expected_keys(kept))
        if unexpected or len(kept) != len(steps):
            settings = self._settings
            resolving = Resolving(settings.policy, settings.pipeline.direction, unexpected)
            remaining = resolving.resolve(kept)
            planned = write(remaining)
            noted += resolving.conflicts
            self._planned = [Timed(step, kept[0].remote, kept[0].lsn) for step in remaining]
        self._open += noted
        seen = max((chunk.seen for chunk in group), default=0)
        return [*planned, *(self._record(one) for one in noted), *self._keep_seen(seen)]

    def sent(self, operations: Sequence[Operation]) -> None:
        """The operations of one transaction, one for each step, and perhaps others after them."""
        self._sent = list(zip(operations, self._planned, strict=False))

    def refused(self, exc: RefusedError) -> PgmigError:
        """The error for a transaction that was refused again and again: a conflict if another row has a value
        that must be unique, otherwise `exc`."""
        one = next((one for operation, one in self._sent if operation is exc.duplicate), None)
        if one is None or isinstance(one.step, Truncation) or not one.step[0].keyed:
            return exc
        target, change = one.step
        how = ConflictKind.UNIQUE_EXISTS, Decision.STOPPED
        values = change.old if isinstance(change, Delete) else change.new
        conflict = conflict_at(target, how, values, one, None)
        return ConflictError(
            conflict,
            f"{exc.message}; this is a conflict with another row of this side",
            "change or delete one of the two rows on the side where it was written, then continue",
        )

    def committed(self) -> int:
        """How many conflicts the committed transaction has resolved."""
        count = len(self._open)
        for one in self._open:
            key = ", ".join(f"{name}={value}" for name, value in one.key)
            log.warning("conflict %s of %s (%s), at %s: %s", one.kind, one.table, key, one.lsn, one.decision)
        self._open = []
        self._recorded_us = self._seen_us
        return count

    def rolled_back(self) -> None:
        self._open = []
        self._seen_us = self._recorded_us

    async def _truncations(self, steps: list[Timed]) -> tuple[list[Timed], list[Conflict]]:
        """Without those TRUNCATEs that lose against changes of this side."""
        if not any(isinstance(one.step, Truncation) for one in steps):
            return steps, []
        kept: list[Timed] = []
        noted: list[Conflict] = []
        for one in steps:
            if isinstance(one.step, Truncation):
                found = await self._truncation(one, one.step)
                noted += found
                if any(conflict.decision is Decision.KEPT for conflict in found):
                    continue
            kept.append(one)
        return kept, noted

    async def _truncation(self, one: Timed, step: Truncation) -> list[Conflict]:
        policy, direction = self._settings.policy, self._settings.pipeline.direction
        kind = ConflictKind.TRUNCATE_ORIGIN_DIFFERS
        found: list[Conflict] = []
        for target in step.targets:
            if not await self._states.changed_here(target, one.remote.seen):
                continue
            decision = decide(policy, kind, Local(True), one.remote, direction)
            conflict = conflict_at(target, (kind, decision), None, one, None)
            if decision is Decision.STOPPED:
                raise stopped(conflict, policy)
            found.append(conflict)
        return found

    def _record(self, conflict: Conflict) -> Operation:
        codec = codec_of(self._settings.encoding)

        def text(value: str) -> bytes:
            return value.encode(codec, "replace")

        return Operation(
            _RECORD,
            (
                text(str(self._settings.pipeline)),
                text(str(conflict.lsn)),
                text(conflict.table.schema),
                text(conflict.table.name),
                text(conflict.kind.value),
                text(conflict.decision.value),
                array([text(name) for name, _ in conflict.key]),
                array([text(value) for _, value in conflict.key]),
                b"%.6f" % conflict.remote_at,
                b"%.6f" % conflict.local_at,
            ),
        )

    def _keep_seen(self, seen: int) -> list[Operation]:
        if seen <= self._seen_us:
            return []
        self._seen_us = seen
        return [Operation(_KEEP_SEEN, (str(self._settings.pipeline).encode(), b"%d" % seen))]


def check_policy(policy: OnConflict, pipeline: PipelineId, *, tells_times: bool) -> None:
    """Raise DESTINATION_NOT_READY or SOURCE_NOT_READY if the server cannot tell which change is the last."""
    if policy is not OnConflict.LAST_UPDATE_WINS or tells_times:
        return
    on_source = pipeline.subscriber == "source"
    raise PgmigError(
        ErrorKind.SOURCE_NOT_READY if on_source else ErrorKind.DESTINATION_NOT_READY,
        f"the {pipeline.subscriber} does not record when rows were changed, so that the last update cannot "
        "be known",
        "set track_commit_timestamp = on and restart that server, which must be PostgreSQL 14 or later; or "
        "use another policy for conflicts",
    )
