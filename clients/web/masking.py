"""What everybody may see: a view without passwords, and without commands of hooks and what they have printed.
The operator sees commands, without passwords."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar, cast

from services.shared.model import (
    Endpoint,
    MigrationView,
    Operation,
    Parameter,
    StepName,
    SwitchoverOptions,
    SwitchoverStep,
)
from services.shared.model.redaction import MASK, redact

T = TypeVar("T")

_HOOK = re.compile(
    r"(hook (?:before-freeze|after-decision|after-rollback)(?: is run| failed)?: ).+", re.DOTALL
)
_COMMAND = re.compile(r"(the command ).+( of a hook)", re.DOTALL)
"""As the coordinator writes them (services.coordinator.operations.hooks and hook_process)."""
_STEPS = frozenset({StepName.HOOK_BEFORE_FREEZE, StepName.HOOK_AFTER_DECISION, StepName.HOOK_AFTER_ROLLBACK})
_PLAIN = frozenset({"tables", "positions", "rates", "indexes"})
"""Fields of a view that contain neither."""


def shown(view: MigrationView, *, operator: bool = False) -> MigrationView:
    """operator: who has the token."""
    view = replace(
        view,
        source=_without_passwords(view.source),
        destination=_without_passwords(view.destination),
        operation=None if view.operation is None else shown_operation(view.operation, operator=operator),
    )
    if operator:
        return view
    changed = {name: _public(getattr(view, name)) for name in _names(MigrationView) if name not in _PLAIN}
    return replace(view, **changed)


def shown_operation(operation: Operation, *, operator: bool = False) -> Operation:
    operation = replace(operation, options=_hooks(operation.options, redact))
    return operation if operator else _public(operation)


def _hooks(options: SwitchoverOptions, change: Callable[[str], str]) -> SwitchoverOptions:
    """With other commands, where there are some."""
    before, after, back = (
        change(command) if command else ""
        for command in (options.hook_before_freeze, options.hook_after_decision, options.hook_after_rollback)
    )
    return replace(options, hook_before_freeze=before, hook_after_decision=after, hook_after_rollback=back)


def _without_passwords(endpoint: Endpoint) -> Endpoint:
    return replace(endpoint, parameters=tuple(map(_parameter, endpoint.parameters)))


def _parameter(one: Parameter) -> Parameter:
    before = f"{one.name}="
    return replace(one, value=redact(before + one.value).removeprefix(before))


def _public(value: T) -> T:
    """A model value without commands and output of hooks."""
    return cast("T", _walked(value))


def _walked(value: Any) -> Any:
    if type(value) is str:
        return _COMMAND.sub(rf"\1{MASK}\2", _HOOK.sub(rf"\1{MASK}", value)) if "hook" in value else value
    if isinstance(value, tuple):
        return tuple(_walked(one) for one in value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    if isinstance(value, SwitchoverOptions):
        return _hooks(value, lambda _: MASK)
    if isinstance(value, SwitchoverStep) and value.name in _STEPS and value.detail:
        return replace(value, detail=MASK)
    changed = {}
    for name in _names(type(value)):
        before = getattr(value, name)
        after = _walked(before)
        if after != before:
            changed[name] = after
    return replace(value, **changed) if changed else value


@cache
def _names(model: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(model))
