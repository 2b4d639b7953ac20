"""Records of migrations with a forward pipeline, built from fields of both and the shown phase."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from services.coordinator.migration.record import PipelineRecord, Record
from services.shared.model import Direction, MigrationPhase, Phase, PipelineState

_OF_PIPELINE = {field.name for field in fields(PipelineRecord)}


def parts(phase: Phase) -> tuple[MigrationPhase, PipelineState]:
    """A phase and a state that are shown as `phase`. If there are several, those without a switchover."""
    if phase.ended:
        return MigrationPhase(phase.value), PipelineState.ENDED
    if phase is Phase.SWITCHOVER:
        return MigrationPhase.SWITCHOVER, PipelineState.STREAMING
    return MigrationPhase.MIGRATING, PipelineState(phase.value)


def make_record(migration_id: str, revision: int, phase: Phase, **changes: Any) -> Record:
    """changes: fields of the record and of its pipeline."""
    own, state = parts(phase)
    since = changes["phase_since"]
    pipeline = PipelineRecord(Direction.FORWARD, state, since)
    of_record = {name: value for name, value in changes.items() if name not in _OF_PIPELINE}
    record = Record(migration_id, revision, own, pipelines=(pipeline,), **of_record)
    return changed(record, **{name: value for name, value in changes.items() if name in _OF_PIPELINE})


def changed(record: Record, *, phase: Phase | None = None, **changes: Any) -> Record:
    """changes: fields of the record and of its pipeline. `failure` is the pipeline's."""
    if phase is not None:
        changes["state"] = parts(phase)[1]
        record = replace(record, phase=parts(phase)[0])
    of_pipeline = {name: value for name, value in changes.items() if name in _OF_PIPELINE}
    record = record.with_pipeline(replace(record.forward, **of_pipeline))
    return replace(record, **{name: value for name, value in changes.items() if name not in _OF_PIPELINE})
