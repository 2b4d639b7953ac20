"""Values for clients (`model.view.migration`) to protobuf and back: see `conversion.mapping`.

Reading a view raises PgmigError(INTERNAL) for an enum value that a newer coordinator sends and this
release does not know. Reading options raises INVALID_ARGUMENT.
"""

from __future__ import annotations

from pgmig.control.v1 import conflicts_pb2, control_pb2, migration_pb2, options_pb2

from services.shared.model import (
    CleanupResult,
    DryRunResult,
    DryRunStep,
    ErrorKind,
    LagLimit,
    MigrationOptions,
    MigrationPlan,
    MigrationView,
    Operation,
    Readiness,
    SwitchoverOptions,
)
from services.shared.model.view.certificate import StoredCertificate
from services.shared.model.view.conflicts import ConflictReport
from services.shared.rpc.conversion.mapping import Correspondence

_VIEW = Correspondence(MigrationView, migration_pb2.Migration, ErrorKind.INTERNAL)
_OPERATION = Correspondence(Operation, migration_pb2.Operation, ErrorKind.INTERNAL)
_SWITCHOVER = Correspondence(SwitchoverOptions, migration_pb2.SwitchoverOptions, ErrorKind.INVALID_ARGUMENT)
_OPTIONS = Correspondence(MigrationOptions, options_pb2.MigrationOptions, ErrorKind.INVALID_ARGUMENT)
_PLAN = Correspondence(MigrationPlan, options_pb2.MigrationPlan, ErrorKind.INTERNAL)
_CLEANED = Correspondence(CleanupResult, control_pb2.CleanupMigrationResponse, ErrorKind.INTERNAL)
_READINESS = Correspondence(Readiness, migration_pb2.Readiness, ErrorKind.INTERNAL)
_LAG = Correspondence(LagLimit, migration_pb2.LagLimit, ErrorKind.INVALID_ARGUMENT)
_CERTIFICATE = Correspondence(StoredCertificate, migration_pb2.Certificate, ErrorKind.INTERNAL)
_CONFLICTS = Correspondence(ConflictReport, conflicts_pb2.ConflictReport, ErrorKind.INTERNAL)
_DRY_STEP = Correspondence(DryRunStep, migration_pb2.DryRunStep, ErrorKind.INTERNAL)
_DRY_RESULT = Correspondence(DryRunResult, migration_pb2.DryRunResult, ErrorKind.INTERNAL)

view_to_pb, view_from_pb = _VIEW.to_pb, _VIEW.from_pb
operation_to_pb, operation_from_pb = _OPERATION.to_pb, _OPERATION.from_pb
conflicts_to_pb, conflicts_from_pb = _CONFLICTS.to_pb, _CONFLICTS.from_pb
switchover_to_pb, switchover_from_pb = _SWITCHOVER.to_pb, _SWITCHOVER.from_pb
options_to_pb, options_from_pb = _OPTIONS.to_pb, _OPTIONS.from_pb
plan_to_pb, plan_from_pb = _PLAN.to_pb, _PLAN.from_pb
cleaned_to_pb, cleaned_from_pb = _CLEANED.to_pb, _CLEANED.from_pb
readiness_to_pb, readiness_from_pb = _READINESS.to_pb, _READINESS.from_pb
lag_limit_to_pb, lag_limit_from_pb = _LAG.to_pb, _LAG.from_pb
certificate_to_pb, certificate_from_pb = _CERTIFICATE.to_pb, _CERTIFICATE.from_pb
dry_step_to_pb, dry_step_from_pb = _DRY_STEP.to_pb, _DRY_STEP.from_pb
dry_result_to_pb, dry_result_from_pb = _DRY_RESULT.to_pb, _DRY_RESULT.from_pb
