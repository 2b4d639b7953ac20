"""Runs the steps of a switchover that change nothing and block nobody. Reports each result and its duration.

A step that fails does not end the dry run, so that one run shows everything that is in the way. Later steps
are omitted only if a server cannot be reached or the migration does not stream, because they need both.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from services.coordinator.migration.views import readiness_of
from services.coordinator.operations import handover, turning
from services.coordinator.operations.estimate import Measured, estimated
from services.coordinator.operations.tables_match import check_tables
from services.coordinator.pipeline.credentials import Credentials
from services.coordinator.pipeline.parts import Context, Schema
from services.coordinator.pipeline.readiness_watch import ReadinessWatch
from services.coordinator.tables import unpublished
from services.coordinator.tables.unlogged import check_unlogged
from services.shared.model import (
    DryRunResult,
    DryRunStep,
    DryRunStepName,
    ErrorKind,
    PgmigError,
    Readiness,
    StepState,
    SwitchoverOptions,
    counted,
)
from services.shared.model.readiness import phase_reason
from services.shared.model.readiness_facts import Limits
from services.shared.pg.catalog.sequences import read_sequences
from services.shared.pg.freeze.source import Freeze
from services.shared.pg.replication.position import wal_position
from services.shared.pg.selection.rules import EVERYTHING, Chosen
from services.shared.pg.session.connection import connection


class DryRun:
    """options: whose limit of the lag, hooks, poolers and way back are checked. exclusive: a context in which
    no switchover runs and none begins. Raises WRONG_PHASE during one."""

    def __init__(
        self,
        context: Context,
        schema: Schema,
        watch: ReadinessWatch,
        options: SwitchoverOptions,
        exclusive: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._context, self._schema, self._watch = context, schema, watch
        self._exclusive, self._options = exclusive, options
        self._limits = Limits(options.max_lag)
        self._uris = Credentials()
        self._chosen: Chosen = EVERYTHING
        self._measured = Measured()
        self._failed = False

    async def run(self) -> AsyncGenerator[DryRunStep | DryRunResult, None]:
        """The steps, and at the end the result."""
        yield await self._step(DryRunStepName.CREDENTIALS, self._connect)
        reached = not self._failed
        yield await self._step(DryRunStepName.READINESS, self._ask)
        migration = self._context.migration
        complete = reached and phase_reason(str(migration.id), migration.phase, migration.failure) is None
        if complete:
            yield await self._step(DryRunStepName.TABLES, self._compare_tables)
            yield await self._step(DryRunStepName.UNLOGGED, self._count_unlogged)
            yield await self._step(DryRunStepName.SEQUENCES, self._read_sequences)
            yield await self._step(DryRunStepName.UNPUBLISHED, self._compare_unpublished)
            yield await self._step(DryRunStepName.RIGHTS, self._prove_rights)
            if self._options.reverse:
                yield await self._step(DryRunStepName.WAY_BACK, self._check_way_back)
        if handover.any_of(self._context, self._options):
            yield await self._step(DryRunStepName.HOOKS_POOLERS, self._check_hooks_and_poolers)
        yield self._result(complete=complete)

    def _result(self, *, complete: bool) -> DryRunResult:
        readiness = self._readiness()
        _, lag_s = self._context.pipeline.following.behind(time.monotonic())
        estimate = estimated(replace(self._measured, lag_s=lag_s)) if complete else ()
        return DryRunResult(readiness, readiness.can_switch and not self._failed, estimate)

    def _readiness(self) -> Readiness:
        return readiness_of(self._context.migration, self._limits)

    async def _step(self, name: DryRunStepName, work: Callable[[], Awaitable[str]]) -> DryRunStep:
        began = time.monotonic()
        state, remedy = StepState.DONE, ""
        try:
            detail = await work()
        except PgmigError as exc:
            self._failed = True
            state, detail, remedy = StepState.FAILED, exc.message, exc.hint
        return DryRunStep(name, state, detail, remedy, round((time.monotonic() - began) * 1000))

    async def _connect(self) -> str:
        credentials = self._context.credentials
        await credentials.check_known()
        self._uris = await credentials.both()
        async with (
            connection(self._uris.source_uri, "source") as source,
            connection(self._uris.destination_uri, "destination") as destination,
        ):
            began = time.monotonic()
            await wal_position(source)
            await wal_position(destination)
            self._measured = replace(self._measured, round_trip_s=(time.monotonic() - began) / 2)
        return "both databases answer"

    async def _ask(self) -> str:
        await self._watch.look()
        readiness = self._readiness()
        if blocking := readiness.blocking:
            raise PgmigError(
                ErrorKind.WRONG_PHASE,
                "; ".join(reason.text for reason in blocking),
                "; ".join(reason.remedy for reason in blocking),
            )
        return "; ".join(reason.text for reason in readiness.reasons) or "nothing is in the way"

    async def _compare_tables(self) -> str:
        began = time.monotonic()
        matching = await check_tables(self._context, self._schema, self._uris)
        self._chosen = matching.chosen
        self._measured = replace(self._measured, tables=matching.tables, compare_s=time.monotonic() - began)
        return f"{counted(matching.tables, 'table')} of the source are on the destination as well"

    async def _count_unlogged(self) -> str:
        await check_unlogged(self._context)
        return "unlogged tables of the destination have their rows"

    async def _read_sequences(self) -> str:
        began = time.monotonic()
        async with connection(self._uris.source_uri, "source") as conn:
            values = await read_sequences(conn, "source", self._chosen)
        read = time.monotonic()
        async with connection(self._uris.destination_uri, "destination") as conn:
            there = {one.sequence for one in await read_sequences(conn, "destination")}
        self._measured = replace(self._measured, read_s=read - began, verify_s=time.monotonic() - read)
        missing = [str(one.sequence) for one in values if one.sequence not in there]
        if missing:
            raise PgmigError(
                ErrorKind.SCHEMA_DRIFT,
                f"sequences of the source are not on the destination: {', '.join(missing[:5])}",
                "create them on the destination, or drop them on the source",
            )
        return f"{counted(len(values), 'sequence')} of the source are on the destination as well"

    async def _compare_unpublished(self) -> str:
        began = time.monotonic()
        found = await unpublished.compared(self._context, self._uris)
        if not found.large_objects and not found.tables:
            return "no large objects, no configuration tables of extensions"
        self._measured = replace(self._measured, unpublished_s=time.monotonic() - began)
        return (
            f"{counted(found.large_objects, 'large object')}, of which {found.differing} differ and will be "
            f"sent before writes are blocked; {counted(found.tables, 'configuration table')} of extensions"
        )

    async def _check_hooks_and_poolers(self) -> str:
        return await handover.check(self._context, self._options)

    async def _check_way_back(self) -> str:
        check = await turning.checked(self._context)
        tables = counted(len(check.published.whole), "table")
        found = "".join(f"; {one.problem}" for one in check.findings)
        return (
            f"changes of {tables} of the {self._context.pipeline.id.subscriber} can be replicated back{found}"
        )

    async def _prove_rights(self) -> str:
        async with self._exclusive():
            names = self._context.pipeline.id
            freeze = await Freeze.open(self._uris.source_uri, names.slot, names.publisher)
            await freeze.close()
        return "our role may block writes, end all sessions and close the source"
