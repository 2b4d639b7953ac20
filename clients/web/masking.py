"""What everybody may see: without passwords in the commands of hooks."""

from __future__ import annotations

from dataclasses import replace

from services.shared.model import MigrationView, Operation
from services.shared.model.redaction import redact


def shown(view: MigrationView) -> MigrationView:
    return view if view.operation is None else replace(view, operation=shown_operation(view.operation))


def shown_operation(operation: Operation) -> Operation:
    around = operation.options
    masked = replace(
        around,
        hook_before_freeze=redact(around.hook_before_freeze),
        hook_after_decision=redact(around.hook_after_decision),
        hook_after_rollback=redact(around.hook_after_rollback),
    )
    return operation if masked == around else replace(operation, options=masked)
