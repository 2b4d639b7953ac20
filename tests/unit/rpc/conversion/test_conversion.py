"""Every value that crosses gRPC comes back as it went."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from dataclasses import fields
from enum import Enum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pgmig.common.v1.common_pb2 import WORKER_ROLE_COPIER
from pgmig.control.v1 import migration_pb2, options_pb2
from pgmig.worker.v1 import worker_pb2

from services.shared.model import (
    Assign,
    AssignmentFailed,
    CleanupResult,
    ErrorKind,
    EventLevel,
    Lsn,
    MigrationId,
    MigrationOptions,
    MigrationPlan,
    MigrationView,
    Operation,
    PgmigError,
    Phase,
    Readiness,
    Reason,
    ReasonCode,
    SwitchoverOptions,
    WorkerCommand,
    WorkerReport,
    work,
)
from services.shared.model.view import failure, operation, switchover
from services.shared.model.view import migration as view
from services.shared.rpc.conversion.mapping import Correspondence, EnumCorrespondence
from services.shared.rpc.conversion.report import report_from_pb, report_to_pb
from services.shared.rpc.conversion.view import (
    cleaned_from_pb,
    cleaned_to_pb,
    operation_from_pb,
    operation_to_pb,
    options_from_pb,
    options_to_pb,
    plan_from_pb,
    plan_to_pb,
    switchover_from_pb,
    switchover_to_pb,
    view_from_pb,
    view_to_pb,
)
from services.shared.rpc.conversion.work import command_from_pb, command_to_pb

_OF_ONE_FIELD: dict[Any, st.SearchStrategy[Any]] = {
    MigrationId: st.from_regex(r"[a-z][a-z0-9_]{0,39}", fullmatch=True).map(MigrationId.parse),
    Lsn: st.builds(Lsn, st.integers(0, 2**64 - 1)),
}


def _values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a type as the model declares it, over the ranges that it documents."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return st.one_of([_values(arm) for arm in typing.get_args(hint)])
    if origin is tuple:
        return _tuples(typing.get_args(hint))
    if hint in _OF_ONE_FIELD:
        return _OF_ONE_FIELD[hint]
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _dataclasses(hint)
    if inspect.isclass(hint) and issubclass(hint, Enum):
        return st.sampled_from(list(hint))
    plain: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(max_size=20),
        int: st.integers(1, 2**32 - 1),
        bool: st.booleans(),
        float: st.integers(0, 4 * 10**15).map(lambda micros: micros / 1_000_000),
        type(None): st.none(),
    }
    return plain[hint]


def _tuples(arms: tuple[Any, ...]) -> st.SearchStrategy[Any]:
    if len(arms) == 2 and arms[1] is Ellipsis:
        return st.lists(_values(arms[0]), max_size=3).map(tuple)
    return st.tuples(*[_values(arm) for arm in arms])


def _dataclasses(kind: type) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(kind)
    fields = {field.name: _values(hints[field.name]) for field in dataclasses.fields(kind)}
    if kind.__name__ == "Register":
        fields["worker_id"] = st.text(min_size=1, max_size=20)
        return st.builds(kind, **fields).map(_of_its_role)
    return st.builds(kind, **fields)


def _of_its_role(register: Any) -> Any:
    running = tuple(dataclasses.replace(ref, role=register.role) for ref in register.running)
    return dataclasses.replace(register, running=running)


@given(_values(MigrationView))
def test_views_round_trip(value: MigrationView) -> None:
    message = migration_pb2.Migration.FromString(view_to_pb(value).SerializeToString())
    assert view_from_pb(message) == value


@given(_values(Operation))
def test_operations_round_trip(value: Operation) -> None:
    message = migration_pb2.Operation.FromString(operation_to_pb(value).SerializeToString())
    assert operation_from_pb(message) == value


@given(_values(SwitchoverOptions))
def test_options_of_a_switchover_round_trip(value: SwitchoverOptions) -> None:
    assert switchover_from_pb(switchover_to_pb(value)) == value


@given(_values(MigrationOptions))
def test_options_round_trip(value: MigrationOptions) -> None:
    assert options_from_pb(options_to_pb(value)) == value


@given(_values(MigrationPlan))
def test_plans_round_trip(value: MigrationPlan) -> None:
    assert plan_from_pb(plan_to_pb(value)) == value


@given(_values(CleanupResult))
def test_cleanup_result_survives(value: CleanupResult) -> None:
    assert cleaned_from_pb(cleaned_to_pb(value)) == value


@given(_values(WorkerCommand))
def test_commands_round_trip(value: WorkerCommand) -> None:
    message = worker_pb2.AttachResponse.FromString(command_to_pb(value).SerializeToString())
    assert command_from_pb(message) == value


@given(_values(WorkerReport))
def test_reports_round_trip(value: WorkerReport) -> None:
    message = worker_pb2.AttachRequest.FromString(report_to_pb(value, 3).SerializeToString())
    assert report_from_pb(message) == value
    assert message.sequence == 3


def _reached(hint: Any, seen: set[str]) -> None:
    for arm in typing.get_args(hint):
        _reached(arm, seen)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        seen.add(hint.__name__)
        for inner in typing.get_type_hints(hint).values():
            _reached(inner, seen)


def test_the_round_trips_reach_every_dataclass_of_the_model() -> None:
    reached: set[str] = set()
    for root in (
        CleanupResult,
        MigrationView,
        MigrationPlan,
        Operation,
        MigrationOptions,
        WorkerCommand,
        WorkerReport,
    ):
        _reached(root, reached)
    declared = {
        name
        for module in (view, operation, switchover, failure, work)
        for name, kind in inspect.getmembers(module, dataclasses.is_dataclass)
        if kind.__module__ == module.__name__
    }
    assert declared <= reached


def test_every_phase_has_its_own_number() -> None:
    numbers = {view_to_pb(MigrationView("m", phase)).phase for phase in Phase}
    assert len(numbers) == len(Phase)


def test_no_time_is_an_unset_timestamp() -> None:
    assert not view_to_pb(MigrationView("m", Phase.CREATED)).HasField("created_at")


def test_options_left_out_by_a_client_are_the_defaults() -> None:
    assert options_from_pb(options_pb2.MigrationOptions()) == MigrationOptions()


def test_a_phase_of_a_newer_coordinator_is_a_clear_error() -> None:
    message = migration_pb2.Migration(migration_id="m")
    message.phase = typing.cast(Any, 77)
    with pytest.raises(PgmigError, match="phase 77"):
        view_from_pb(message)


NEWER: Any = 99
"""A number that no enum has."""


def test_a_failure_or_level_of_a_newer_coordinator_is_shown_as_the_plain_one() -> None:
    message = migration_pb2.Migration(
        migration_id="m",
        phase=migration_pb2.PHASE_FAILED,
        failure=migration_pb2.Failure(kind=NEWER),
        events=[migration_pb2.Event(level=NEWER, text="text")],
    )
    shown = view_from_pb(message)
    assert shown.failure is not None and shown.failure.kind is ErrorKind.INTERNAL
    assert [(event.level, event.text) for event in shown.events] == [(EventLevel.INFO, "text")]


def test_a_reason_of_a_newer_coordinator_is_shown_with_its_text() -> None:
    reason = migration_pb2.Reason(code=NEWER, blocking=True, text="text", remedy="remedy")
    message = migration_pb2.Migration(
        migration_id="m",
        phase=migration_pb2.PHASE_STREAMING,
        readiness=migration_pb2.Readiness(reasons=[reason]),
    )
    shown = Readiness(False, (Reason(ReasonCode.OTHER, True, "text", "remedy"),))
    assert view_from_pb(message).readiness == shown


def test_an_error_kind_of_a_newer_worker_counts_as_internal() -> None:
    failed = worker_pb2.AssignmentFailed(assignment_id="a", kind=NEWER)
    report = report_from_pb(worker_pb2.AttachRequest(failed=failed))
    assert isinstance(report, AssignmentFailed) and report.kind is ErrorKind.INTERNAL


def test_a_role_or_step_of_a_newer_coordinator_is_a_clear_error() -> None:
    worker = migration_pb2.Worker(role=NEWER)
    with pytest.raises(PgmigError, match="role 99") as caught:
        view_from_pb(migration_pb2.Migration(phase=migration_pb2.PHASE_COPY, workers=[worker]))
    assert caught.value.kind is ErrorKind.INTERNAL
    for step in (
        migration_pb2.SwitchoverStep(name=NEWER, state=migration_pb2.SWITCHOVER_STEP_STATE_DONE),
        migration_pb2.SwitchoverStep(name=migration_pb2.SWITCHOVER_STEP_NAME_DRAIN, state=NEWER),
    ):
        with pytest.raises(PgmigError, match="99, which this version does not know"):
            operation_from_pb(migration_pb2.Operation(steps=[step]))


def test_an_option_of_a_newer_client_is_refused() -> None:
    with pytest.raises(PgmigError, match="large objects 99") as caught:
        options_from_pb(options_pb2.MigrationOptions(large_objects=NEWER))
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT


@dataclasses.dataclass(frozen=True)
class _Event:
    """As migration_pb2.Event, without `level`."""

    at: float
    text: str


def test_a_field_without_a_counterpart_is_found() -> None:
    mapping = Correspondence(_Event, migration_pb2.Event, ErrorKind.INTERNAL)
    with pytest.raises(TypeError, match="do not both have: level"):
        mapping.to_pb(_Event(1.0, "text"))


class _Level(StrEnum):
    """As EventLevel, without `ERROR`."""

    INFO = "info"
    WARNING = "warning"


def test_an_enum_value_without_a_counterpart_is_found() -> None:
    field = migration_pb2.Event.DESCRIPTOR.fields_by_name["level"]
    with pytest.raises(TypeError, match="EventLevel"):
        EnumCorrespondence(_Level, field, ErrorKind.INTERNAL)


@pytest.mark.parametrize(
    "message",
    [
        worker_pb2.AttachRequest(),
        worker_pb2.AttachRequest(register=worker_pb2.Register(worker_id="w", role=NEWER)),
        worker_pb2.AttachRequest(register=worker_pb2.Register(role=WORKER_ROLE_COPIER)),
    ],
)
def test_a_report_that_says_nothing_known_is_refused(message: worker_pb2.AttachRequest) -> None:
    with pytest.raises(PgmigError) as caught:
        report_from_pb(message)
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "message",
    [
        worker_pb2.AttachResponse(),
        worker_pb2.AttachResponse(assign=worker_pb2.Assign(assignment_id="a")),
    ],
)
def test_a_command_that_says_nothing_known_is_refused(message: worker_pb2.AttachResponse) -> None:
    with pytest.raises(PgmigError) as caught:
        command_from_pb(message)
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT


@given(_values(Assign))
def test_credentials_do_not_show_in_the_repr_of_an_assignment(value: Assign) -> None:
    shown = [one.name for one in fields(value.assignment.work) if one.repr]  # a drawn value may say anything
    assert not [name for name in shown if name.endswith("_uri")]
