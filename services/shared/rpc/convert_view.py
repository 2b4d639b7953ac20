"""What clients see (`model.view`) to protobuf and back; total in both directions.

Times: 0.0 is an unset Timestamp. Optional parts: None is an unset field. Decoding raises
PgmigError(INTERNAL) for an enum value that a newer peer knows and this one does not.
"""

from __future__ import annotations

import math

from google.protobuf.timestamp_pb2 import Timestamp
from pgmig.common.v1.common_pb2 import TableName
from pgmig.control.v1 import control_pb2, options_pb2
from pgmig.control.v1 import migration_pb2 as pb

from services.shared.model import (
    CleanupResult,
    Endpoint,
    ErrorKind,
    Event,
    EventLevel,
    Failure,
    IndexProgress,
    LargeObjects,
    Lsn,
    MigrationOptions,
    MigrationPlan,
    MigrationView,
    NoKeyTables,
    Parameter,
    PgmigError,
    Phase,
    Positions,
    Rates,
    Role,
    Selection,
    SkippedTransaction,
    StepName,
    StepState,
    SwitchoverResult,
    SwitchoverStep,
    TableId,
    TableProgress,
    TableState,
    WorkerView,
)

_NANOS = 1_000_000_000

_PHASE_TO_PB = {phase: pb.Phase.Value(f"PHASE_{phase.name}") for phase in Phase}
_PHASE_FROM_PB = {int(value): phase for phase, value in _PHASE_TO_PB.items()}
_NO_KEY_TO_PB = {
    choice: options_pb2.NoKeyTables.Value(f"NO_KEY_TABLES_{choice.name}") for choice in NoKeyTables
}
_NO_KEY_FROM_PB = {int(value): choice for choice, value in _NO_KEY_TO_PB.items()}
_LARGE_OBJECTS_TO_PB = {
    choice: options_pb2.LargeObjects.Value(f"LARGE_OBJECTS_{choice.name}") for choice in LargeObjects
}
_LARGE_OBJECTS_FROM_PB = {int(value): choice for choice, value in _LARGE_OBJECTS_TO_PB.items()}
_STATE_TO_PB = {state: pb.TableState.Value(f"TABLE_STATE_{state.name}") for state in TableState}
_STATE_FROM_PB = {int(value): state for state, value in _STATE_TO_PB.items()}


def _unknown(what: str, value: int | str) -> PgmigError:
    return PgmigError(
        ErrorKind.INTERNAL,
        f"the coordinator names {what} {value}, which this version does not know",
        "use the same version of pgmig everywhere",
    )


def time_to_pb(seconds: float) -> Timestamp | None:
    """Seconds since the epoch as a Timestamp; None for 0.0."""
    if not seconds:
        return None
    # Whole seconds apart: as one product the nanoseconds would not fit a float.
    whole = math.floor(seconds)
    whole, nanos = divmod(whole * _NANOS + round((seconds - whole) * _NANOS), _NANOS)
    return Timestamp(seconds=whole, nanos=nanos)


def time_from_pb(stamp: Timestamp) -> float:
    return (stamp.seconds * _NANOS + stamp.nanos) / _NANOS


def phase_from_pb(value: int) -> Phase:
    if value not in _PHASE_FROM_PB:
        raise _unknown("phase", value)
    return _PHASE_FROM_PB[value]


def options_to_pb(options: MigrationOptions) -> options_pb2.MigrationOptions:
    return options_pb2.MigrationOptions(
        follow=options.follow,
        copy_workers=options.copy_workers,
        index_workers=options.index_workers,
        no_key_tables=_NO_KEY_TO_PB[options.no_key_tables],
        strict_boundaries=options.strict_boundaries,
        maintenance_work_mem_kb=options.maintenance_work_mem_kb,
        split_tables_larger_than=options.split_tables_larger_than,
        max_rate=options.max_rate,
        no_owner=options.no_owner,
        no_acl=options.no_acl,
        large_objects=_LARGE_OBJECTS_TO_PB[options.large_objects],
        selection=_selection_to_pb(options.selection),
        schema_only=options.schema_only,
        data_only=options.data_only,
        drop_if_exists=options.drop_if_exists,
        confirmed=options.confirmed,
        skip_objects=options.skip_objects,
    )


def options_from_pb(message: options_pb2.MigrationOptions) -> MigrationOptions:
    """0 stands for the default. Raises INVALID_ARGUMENT for a choice that is none."""
    default = MigrationOptions()
    if message.no_key_tables and message.no_key_tables not in _NO_KEY_FROM_PB:
        raise _no_choice("no_key_tables", message.no_key_tables)
    if message.large_objects and message.large_objects not in _LARGE_OBJECTS_FROM_PB:
        raise _no_choice("large_objects", message.large_objects)
    return MigrationOptions(
        message.follow,
        message.copy_workers or default.copy_workers,
        message.index_workers or default.index_workers,
        _NO_KEY_FROM_PB.get(message.no_key_tables, default.no_key_tables),
        message.strict_boundaries,
        maintenance_work_mem_kb=message.maintenance_work_mem_kb,
        split_tables_larger_than=message.split_tables_larger_than or default.split_tables_larger_than,
        max_rate=message.max_rate,
        selection=_selection_from_pb(message.selection),
        schema_only=message.schema_only,
        data_only=message.data_only,
        drop_if_exists=message.drop_if_exists,
        confirmed=message.confirmed,
        skip_objects=tuple(message.skip_objects),
        no_owner=message.no_owner,
        no_acl=message.no_acl,
        large_objects=_LARGE_OBJECTS_FROM_PB.get(message.large_objects, default.large_objects),
    )


def _no_choice(option: str, value: int) -> PgmigError:
    return PgmigError(
        ErrorKind.INVALID_ARGUMENT,
        f"{option} {value} is not a choice that this version knows",
        "use the same version of pgmig everywhere",
    )


def _selection_to_pb(value: Selection) -> options_pb2.Selection:
    return options_pb2.Selection(
        include_tables=value.include_tables,
        exclude_tables=value.exclude_tables,
        exclude_table_data=value.exclude_table_data,
        include_schemas=value.include_schemas,
        exclude_schemas=value.exclude_schemas,
        search_path=value.search_path,
    )


def _selection_from_pb(message: options_pb2.Selection) -> Selection:
    return Selection(
        tuple(message.include_tables),
        tuple(message.exclude_tables),
        tuple(message.exclude_table_data),
        tuple(message.include_schemas),
        tuple(message.exclude_schemas),
        tuple(message.search_path),
    )


def plan_to_pb(plan: MigrationPlan) -> options_pb2.MigrationPlan:
    return options_pb2.MigrationPlan(
        drops=plan.drops, empties=plan.empties, token=plan.token, misfits=plan.misfits
    )


def plan_from_pb(message: options_pb2.MigrationPlan) -> MigrationPlan:
    return MigrationPlan(tuple(message.drops), tuple(message.empties), message.token, tuple(message.misfits))


def cleaned_to_pb(result: CleanupResult) -> control_pb2.CleanupMigrationResponse:
    return control_pb2.CleanupMigrationResponse(removed=result.removed, left=result.left)


def cleaned_from_pb(message: control_pb2.CleanupMigrationResponse) -> CleanupResult:
    return CleanupResult(tuple(message.removed), tuple(message.left))


def _endpoint_to_pb(value: Endpoint) -> pb.Endpoint:
    return pb.Endpoint(
        host=value.host,
        port=value.port,
        dbname=value.dbname,
        user=value.user,
        server_version_num=value.server_version_num,
        parameters=[pb.Parameter(name=one.name, value=one.value) for one in value.parameters],
    )


def _endpoint_from_pb(message: pb.Endpoint) -> Endpoint:
    return Endpoint(
        message.host,
        message.port,
        message.dbname,
        message.user,
        message.server_version_num,
        tuple(Parameter(one.name, one.value) for one in message.parameters),
    )


def _failure_to_pb(value: Failure) -> pb.Failure:
    return pb.Failure(
        kind=value.kind, message=value.message, hint=value.hint, lsn=value.lsn.value, xid=value.xid
    )


def _failure_from_pb(message: pb.Failure) -> Failure:
    return Failure(
        ErrorKind.named(message.kind), message.message, message.hint, Lsn(message.lsn), message.xid
    )


def _skipped_to_pb(value: SkippedTransaction) -> pb.SkippedTransaction:
    return pb.SkippedTransaction(
        lsn=value.lsn.value,
        xid=value.xid,
        at=time_to_pb(value.at),
        who=value.who,
        reason=value.reason,
        failure=value.failure,
    )


def _skipped_from_pb(message: pb.SkippedTransaction) -> SkippedTransaction:
    return SkippedTransaction(
        Lsn(message.lsn),
        message.xid,
        time_from_pb(message.at),
        message.who,
        message.reason,
        message.failure,
    )


def _positions_to_pb(value: Positions) -> pb.Positions:
    return pb.Positions(
        source_lsn=value.source_lsn.value,
        decoded_lsn=value.decoded_lsn.value,
        applied_lsn=value.applied_lsn.value,
        flushed_lsn=value.flushed_lsn.value,
        confirmed_lsn=value.confirmed_lsn.value,
        lag_bytes=value.lag_bytes,
        lag_seconds=value.lag_seconds,
        retained_bytes=value.retained_bytes,
        wal_status=value.wal_status,
    )


def _positions_from_pb(message: pb.Positions) -> Positions:
    return Positions(
        Lsn(message.source_lsn),
        Lsn(message.decoded_lsn),
        Lsn(message.applied_lsn),
        Lsn(message.flushed_lsn),
        Lsn(message.confirmed_lsn),
        message.lag_bytes,
        message.lag_seconds,
        message.retained_bytes,
        message.wal_status,
    )


def _rates_to_pb(value: Rates) -> pb.Rates:
    return pb.Rates(
        rows_per_second=value.rows_per_second,
        bytes_per_second=value.bytes_per_second,
        transactions_per_second=value.transactions_per_second,
        rows_applied=value.rows_applied,
        transactions_applied=value.transactions_applied,
    )


def _rates_from_pb(message: pb.Rates) -> Rates:
    return Rates(
        message.rows_per_second,
        message.bytes_per_second,
        message.transactions_per_second,
        message.rows_applied,
        message.transactions_applied,
    )


def _event_from_pb(message: pb.Event) -> Event:
    """A level that this release does not know is shown as information."""
    known = message.level in set(EventLevel)
    level = EventLevel(message.level) if known else EventLevel.INFO
    return Event(time_from_pb(message.at), level, message.text)


def _worker_from_pb(message: pb.Worker) -> WorkerView:
    if message.role not in set(Role):
        raise _unknown("worker role", message.role)
    return WorkerView(message.worker_id, Role(message.role), message.host, message.lost)


def _table_to_pb(value: TableProgress) -> pb.TableProgress:
    return pb.TableProgress(
        table=TableName(schema=value.table.schema, name=value.table.name),
        state=_STATE_TO_PB[value.state],
        rows_estimated=value.rows_estimated,
        rows_copied=value.rows_copied,
        bytes_estimated=value.bytes_estimated,
        bytes_copied=value.bytes_copied,
    )


def _table_from_pb(message: pb.TableProgress) -> TableProgress:
    if message.state not in _STATE_FROM_PB:
        raise _unknown("table state", message.state)
    return TableProgress(
        TableId(message.table.schema, message.table.name),
        _STATE_FROM_PB[message.state],
        message.rows_estimated,
        message.rows_copied,
        message.bytes_estimated,
        message.bytes_copied,
    )


def _result_to_pb(value: SwitchoverResult) -> pb.SwitchoverResult:
    return pb.SwitchoverResult(
        sentinel_lsn=value.sentinel_lsn.value,
        write_downtime_ms=value.write_downtime_ms,
        sequences=value.sequences,
        finished_at=time_to_pb(value.finished_at),
    )


def _result_from_pb(message: pb.SwitchoverResult) -> SwitchoverResult:
    return SwitchoverResult(
        Lsn(message.sentinel_lsn),
        message.write_downtime_ms,
        message.sequences,
        time_from_pb(message.finished_at),
    )


def step_to_pb(value: SwitchoverStep) -> pb.SwitchoverStep:
    return pb.SwitchoverStep(
        name=value.name,
        state=value.state,
        detail=value.detail,
        elapsed_ms=value.elapsed_ms,
        result=_result_to_pb(value.result) if value.result else None,
    )


def step_from_pb(message: pb.SwitchoverStep) -> SwitchoverStep:
    if message.name not in set(StepName):
        raise _unknown("switchover step", message.name)
    if message.state not in set(StepState):
        raise _unknown("state of a switchover step", message.state)
    return SwitchoverStep(
        StepName(message.name),
        StepState(message.state),
        message.detail,
        message.elapsed_ms,
        _result_from_pb(message.result) if message.HasField("result") else None,
    )


def view_to_pb(view: MigrationView) -> pb.Migration:
    return pb.Migration(
        migration_id=view.migration_id,
        revision=view.revision,
        phase=_PHASE_TO_PB[view.phase],
        resume_phase=_PHASE_TO_PB[view.resume_phase] if view.resume_phase else pb.PHASE_UNSPECIFIED,
        failure=_failure_to_pb(view.failure) if view.failure else None,
        source=_endpoint_to_pb(view.source),
        destination=_endpoint_to_pb(view.destination),
        options=options_to_pb(view.options),
        created_at=time_to_pb(view.created_at),
        phase_since=time_to_pb(view.phase_since),
        positions=_positions_to_pb(view.positions),
        rates=_rates_to_pb(view.rates),
        tables=[_table_to_pb(table) for table in view.tables],
        events=[pb.Event(at=time_to_pb(e.at), level=e.level, text=e.text) for e in view.events],
        workers=[
            pb.Worker(worker_id=w.worker_id, role=w.role, host=w.host, lost=w.lost) for w in view.workers
        ],
        switchover=_result_to_pb(view.switchover) if view.switchover else None,
        indexes=pb.IndexProgress(
            total=view.indexes.total, done=view.indexes.done, building=view.indexes.building
        ),
        needs_credentials=view.needs_credentials,
        skipped=[_skipped_to_pb(skipped) for skipped in view.skipped],
    )


def view_from_pb(message: pb.Migration) -> MigrationView:
    return MigrationView(
        migration_id=message.migration_id,
        phase=phase_from_pb(message.phase),
        revision=message.revision,
        resume_phase=phase_from_pb(message.resume_phase) if message.resume_phase else None,
        failure=_failure_from_pb(message.failure) if message.HasField("failure") else None,
        source=_endpoint_from_pb(message.source),
        destination=_endpoint_from_pb(message.destination),
        options=options_from_pb(message.options),
        created_at=time_from_pb(message.created_at),
        phase_since=time_from_pb(message.phase_since),
        positions=_positions_from_pb(message.positions),
        rates=_rates_from_pb(message.rates),
        tables=tuple(_table_from_pb(table) for table in message.tables),
        events=tuple(_event_from_pb(event) for event in message.events),
        workers=tuple(_worker_from_pb(worker) for worker in message.workers),
        switchover=_result_from_pb(message.switchover) if message.HasField("switchover") else None,
        indexes=IndexProgress(message.indexes.total, message.indexes.done, tuple(message.indexes.building)),
        needs_credentials=message.needs_credentials,
        skipped=tuple(_skipped_from_pb(skipped) for skipped in message.skipped),
    )
