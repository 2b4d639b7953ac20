"""Whether a migration can be switched over now: the decision, and the words for each reason.

`assess` is a pure function of what the coordinator knows and of what both servers showed when they were last
asked. A condition with which a switchover would fail, or would have to wait, is a blocking reason. Any other
condition that an operator should know before a switchover is a warning. The switchover itself refuses with
the same reasons, so their texts are made here only.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from services.shared.model.lifecycle.shown_phase import Phase
from services.shared.model.names import MigrationId
from services.shared.model.plurals import counted
from services.shared.model.readiness_facts import (
    DEFAULT_LIMITS,
    ForeignWriter,
    Limits,
    OldTransaction,
    ReadinessFacts,
    Seen,
    SequenceUse,
    SourceFacts,
)
from services.shared.model.tables.table import TableId
from services.shared.model.view.failure import Failure
from services.shared.model.view.readiness import LagLimit, Readiness, Reason, ReasonCode

NAMED_AT_MOST, IN_COMMAND_AT_MOST = 5, 50


def assess(facts: ReadinessFacts, limits: Limits = DEFAULT_LIMITS) -> Readiness:
    """Lag and servers count only once the migration replicates changes: nobody asks the servers before."""
    reasons = sorted(_reasons(facts, limits), key=lambda reason: not reason.blocking)
    return Readiness(not any(reason.blocking for reason in reasons), tuple(reasons))


def _reasons(facts: ReadinessFacts, limits: Limits) -> Iterator[Reason]:
    if not facts.follow:
        yield not_replicating(facts.migration_id)
        return
    if facts.slot_lost and not facts.phase.ended:  # it cannot be continued, so no other remedy helps
        yield _slot_lost(facts.migration_id)
        return
    stopped = phase_reason(facts.migration_id, facts.phase, facts.failure)
    if stopped is not None:
        yield stopped
    if facts.needs_credentials:
        yield credentials_needed(facts.migration_id)
    if facts.uncopied:
        yield _copy_unfinished(facts)
    if stopped is None:
        yield from _of_the_stream(facts, limits)
        yield from _of_the_servers(facts, limits)
    elif facts.indexes_done < facts.indexes:
        yield _indexes_unfinished(facts)


def _of_the_stream(facts: ReadinessFacts, limits: Limits) -> Iterator[Reason]:
    if not facts.applier_live:
        yield no_applier(facts.migration_id, facts.applier_error)
    elif limits.lag.exceeded(facts.lag_bytes, facts.lag_seconds) or facts.phase is Phase.CATCHUP:
        yield lagging(facts.lag_bytes, facts.lag_seconds, limits.lag)


def _of_the_servers(facts: ReadinessFacts, limits: Limits) -> Iterator[Reason]:
    sides = (
        (ReasonCode.SOURCE_UNKNOWN, "source", facts.source_seen),
        (ReasonCode.DESTINATION_UNKNOWN, "destination", facts.destination_seen),
    )
    for code, side, seen in sides:
        if seen.age_s is None or seen.error or seen.age_s > limits.facts_s:
            yield _unknown(code, side, seen)
    missing = tuple(sorted({*facts.unreplicated, *facts.destination.missing}))
    if missing:
        yield tables_missing(facts.migration_id, missing)
    if facts.destination.invalid:
        yield invalid_indexes(facts.destination.invalid)
    yield from _of_the_source(facts.source, limits)
    if facts.destination.writers:
        yield _destination_written(facts.destination.writers)
    if facts.destination.written:
        yield destination_changed(
            facts.migration_id, facts.destination.written, blocking=not facts.others_may_write
        )
    if facts.destination.guarding:
        yield destination_guarded(facts.destination.guarding)
    if facts.destination.no_standby:
        yield _standby_missing()
    if facts.destination.unguarded:
        yield _destination_unguarded(facts.destination.unguarded)


def _of_the_source(source: SourceFacts, limits: Limits) -> Iterator[Reason]:
    if source.prepared:
        yield _prepared(source.prepared)
    if source.not_endable:
        yield sessions_not_endable(source.not_endable)
    if source.subscriptions:
        yield _subscriptions(source.subscriptions)
    old = [one for one in source.transactions if one.seconds >= limits.transaction_s]
    if locking := [one for one in old if one.locked]:
        yield _locked(locking)
    if idle := [one for one in old if not one.locked]:
        yield _long(idle)
    if source.hidden:
        yield _hidden(source.hidden)
    near = [one for one in source.sequences if one.used >= limits.sequence_used]
    if near:
        yield _near_end(near)


def _listed(names: Sequence[object]) -> str:
    more = len(names) - NAMED_AT_MOST
    return ", ".join(map(str, names[:NAMED_AT_MOST])) + (f" and {more} more" if more > 0 else "")


def _arguments(tables: Sequence[TableId]) -> str:
    """For a command. What is left is named when these are done."""
    more = len(tables) - IN_COMMAND_AT_MOST
    given = " ".join(shlex.quote(table.argument) for table in tables[:IN_COMMAND_AT_MOST])
    return given + (
        f" (then {counted(more, 'further table')}, which this message names after that)" * (more > 0)
    )


def not_replicating(migration_id: str) -> Reason:
    return Reason(
        ReasonCode.NOT_REPLICATING,
        True,
        f"migration {migration_id} copies the database once and does not replicate changes",
        "only a migration that was started with `clone --follow` can be switched over",
    )


def phase_reason(migration_id: str, phase: Phase, failure: Failure | None) -> Reason | None:
    """Why the migration does not stream and is not about to. None if it does."""
    if phase in {Phase.CATCHUP, Phase.STREAMING, Phase.REVERSE}:
        return None
    resume = f"`pgmig-cli resume --id {migration_id}`"
    text = f"migration {migration_id} is in phase {phase}, not streaming"
    if phase is Phase.FAILED:
        if failure is not None:
            text = f"migration {migration_id} has failed: {failure.message}"
        remedy = (failure.hint if failure else "") or f"remove the cause of the failure, then {resume}"
        return Reason(ReasonCode.FAILED, True, text, remedy)
    if phase is Phase.PAUSED:
        return Reason(ReasonCode.PAUSED, True, text, f"resume it first: {resume}")
    remedy = "wait until it is streaming (see `pgmig-cli status`)"
    if phase.ended:
        remedy = "it has ended, so there is nothing to switch over (see `pgmig-cli status`)"
    elif phase is Phase.BIDIRECTIONAL:
        remedy = both_written(migration_id)
    return Reason(ReasonCode.NOT_STREAMING, True, text, remedy)


def both_written(migration_id: str) -> str:
    """Remedy: why a migration with --bidirectional is not switched over."""
    return (
        "both sides are written to with --bidirectional, so there is nothing to switch over: let all "
        "applications use one side, then end the replication with "
        f"`pgmig-cli finalize --id {migration_id}`"
    )


def credentials_needed(migration_id: str) -> Reason:
    return Reason(
        ReasonCode.CREDENTIALS_NEEDED,
        True,
        f"the connection strings of migration {migration_id} are not known any more",
        f"give them with `pgmig-cli resume --id {migration_id} --source-uri ... --dest-uri ...`",
    )


def _slot_lost(migration_id: str) -> Reason:
    slot = MigrationId.parse(migration_id).forward.slot
    return Reason(
        ReasonCode.SLOT_LOST,
        True,
        f"replication slot {slot} was invalidated or dropped, so changes are missing",
        f"clean up with `pgmig-cli cleanup --id {migration_id}` and start the migration again",
    )


def _copy_unfinished(facts: ReadinessFacts) -> Reason:
    return Reason(
        ReasonCode.COPY_UNFINISHED,
        True,
        f"{len(facts.uncopied)} of {counted(facts.tables, 'table')} are not copied yet: "
        f"{_listed(facts.uncopied)}",
        "wait until all tables are copied (see `pgmig-cli status --tables`)",
    )


def _indexes_unfinished(facts: ReadinessFacts) -> Reason:
    return Reason(
        ReasonCode.INDEXES_UNFINISHED,
        True,
        f"{facts.indexes_done} of {facts.indexes} indexes and constraints are built",
        "wait until all of them are built (see `pgmig-cli status`)",
    )


def no_applier(migration_id: str, error: str = "") -> Reason:
    """error: why the last attempt of an applier failed."""
    text = f"no applier is at work for migration {migration_id}"
    remedy = "see that an applier is attached (`pgmig-cli status`)"
    if error:
        text = f"{text}; the last attempt failed: {error}"
        remedy = "remove the cause of that error (see the events in `pgmig-cli status`)"
    return Reason(ReasonCode.NO_APPLIER, True, text, remedy)


def lagging(lag_bytes: int, lag_seconds: float, limit: LagLimit) -> Reason:
    """limit: the one that the lag exceeds; the migration may also still catch up within it."""
    most = f"{limit.longest_s:g} s" + (f" or {limit.bytes} bytes" if limit.bytes else "")
    over = f", and the limit is {most}" if limit.exceeded(lag_bytes, lag_seconds) else ""
    return Reason(
        ReasonCode.LAG,
        True,
        f"the destination is {lag_seconds:.0f} s ({lag_bytes} bytes) behind{over}",
        "wait until it has caught up, or allow more time and a larger lag (--timeout, --max-lag)",
    )


def _unknown(code: ReasonCode, side: str, seen: Seen) -> Reason:
    if seen.age_s is None:
        text = f"the {side} has not been checked yet"
    else:
        text = f"what is known of the {side} is {seen.age_s:.0f} s old"
    return Reason(
        code,
        True,
        f"{text}: {seen.error}" if seen.error else text,
        f"see that the coordinator can connect to the {side}; it tries again every few seconds",
    )


def tables_missing(migration_id: str, tables: Sequence[TableId]) -> Reason:
    """tables: of the source, sorted, which the destination does not have or which are not replicated."""
    return Reason(
        ReasonCode.TABLES_MISSING,
        True,
        f"tables of the source are not on the destination: {', '.join(map(str, tables[:NAMED_AT_MOST]))}",
        "they were created after the migration began: create them on the destination and add them with "
        f"pgmig-cli resync-table --id {migration_id} "
        f"{_arguments(tables)}, or drop them on the source",
    )


def invalid_indexes(indexes: Sequence[TableId]) -> Reason:
    return Reason(
        ReasonCode.INVALID_INDEXES,
        True,
        f"indexes of the destination are invalid, and valid on the source: {_listed(indexes)}",
        "wait if one is being built, otherwise run REINDEX INDEX for it on the destination; unique indexes "
        "enforce nothing until then",
    )


def _prepared(named: str) -> Reason:
    return Reason(
        ReasonCode.PREPARED_TRANSACTIONS,
        True,
        f"the source has prepared transactions: {named}",
        "COMMIT PREPARED or ROLLBACK PREPARED them; the switchover waits for them",
    )


def sessions_not_endable(named: str, side: str = "source") -> Reason:
    return Reason(
        ReasonCode.SESSIONS_NOT_ENDABLE,
        True,
        f"our role may not end sessions on the {side}: {named}",
        "grant it pg_signal_backend, and end the sessions of superusers yourself, then switch over again",
    )


def _subscriptions(named: str) -> Reason:
    return Reason(
        ReasonCode.SUBSCRIPTIONS_NOT_OURS,
        True,
        f"subscriptions write into the source, and our role may not disable them: {named}",
        "let their owner run ALTER SUBSCRIPTION ... DISABLE",
    )


def _aged(transactions: Sequence[OldTransaction]) -> str:
    return _listed([f"{one.session}, for {one.seconds} s" for one in transactions])


def _locked(transactions: Sequence[OldTransaction]) -> Reason:
    tables = sorted({table for one in transactions for table in one.locked})
    return Reason(
        ReasonCode.LOCKED_TABLES,
        True,
        f"open transactions on the source have written to tables or locked them: {_aged(transactions)}; "
        f"tables: {_listed(tables)}",
        "end these transactions; the switchover waits for them, and is rolled back if they last longer than "
        "its time-out",
    )


def _long(transactions: Sequence[OldTransaction]) -> Reason:
    return Reason(
        ReasonCode.LONG_TRANSACTIONS,
        False,
        f"the source has long transactions: {_aged(transactions)}",
        "let them finish first if they matter: the switchover ends their sessions",
    )


def _hidden(number: int) -> Reason:
    return Reason(
        ReasonCode.SESSIONS_HIDDEN,
        False,
        f"our role cannot see the transactions of {counted(number, 'session')} of other roles on the source",
        "GRANT pg_read_all_stats to our role, so that long transactions are found before the switchover",
    )


def _near_end(sequences: Sequence[SequenceUse]) -> Reason:
    return Reason(
        ReasonCode.SEQUENCES_NEAR_END,
        False,
        "sequences of the source are near their end: "
        + _listed([f"{one.sequence} ({one.used:.0%} used)" for one in sequences]),
        "the switchover copies their values: enlarge their type or MAXVALUE on both sides soon",
    )


def _destination_written(writers: Sequence[ForeignWriter]) -> Reason:
    seen = [
        f"{one.session} on {one.table} at {datetime.fromtimestamp(one.at, UTC):%H:%M:%S} UTC"
        for one in writers
    ]
    return Reason(
        ReasonCode.DESTINATION_WRITTEN,
        False,
        "sessions that are not pgmig's held locks for writing on tables of the destination: "
        f"{_listed(seen)} (pgmig looks every few seconds, so it may miss others)",
        "keep applications from writing to the destination before the switchover, and compare these tables",
    )


def destination_changed(migration_id: str, writes: Sequence[ForeignWriter], *, blocking: bool) -> Reason:
    """writes: of others to tables of the destination."""
    seen = [
        f"{one.session} on {one.table} at {datetime.fromtimestamp(one.at, UTC):%Y-%m-%d %H:%M:%S} UTC"
        for one in writes
    ]
    return Reason(
        ReasonCode.DESTINATION_WRITTEN,
        blocking,
        f"others have written to tables of the destination: {_listed(seen)}",
        "keep them from it, then copy these tables again (partitioned ones by their partitions): pgmig-cli "
        f"resync-table --id {migration_id} {_arguments(sorted({one.table for one in writes}))}",
    )


def destination_guarded(pipelines: Sequence[str]) -> Reason:
    """pipelines: of other migrations into the same database."""
    return Reason(
        ReasonCode.DESTINATION_GUARDED,
        True,
        "the destination would stay read-only by default after the switchover, because another migration "
        f"into the same database needs that: {_listed(pipelines)}",
        "end that migration first (switchover, abort or cleanup). If it does not exist any more, delete its "
        "row from pgmig.guard and run ALTER DATABASE ... RESET default_transaction_read_only on the "
        "destination",
    )


def _standby_missing() -> Reason:
    return Reason(
        ReasonCode.STANDBY_MISSING,
        True,
        "the server that changes are written to has no standby that counts, so nothing more is confirmed "
        "(--confirm-after-standby)",
        "start the standby (see pg_stat_replication and synchronous_standby_names there): the migration "
        "waits for it, and its source keeps the WAL meanwhile",
    )


def _destination_unguarded(why: str) -> Reason:
    return Reason(
        ReasonCode.DESTINATION_UNGUARDED,
        False,
        f"others may be able to write to the destination: {why}",
        "keep applications from writing to the destination before the switchover",
    )
