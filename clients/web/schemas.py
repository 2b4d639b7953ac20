"""JSON schemas of answers, from the dataclasses that `to_json` writes
(services.shared.model.view.jsonview)."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from enum import StrEnum
from types import UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

from clients.web.problems import PROBLEM_SCHEMA
from services.shared.model import (
    CleanupResult,
    DryRunResult,
    DryRunStep,
    Endpoint,
    Event,
    Lsn,
    MigrationOptions,
    MigrationView,
    Operation,
    Readiness,
    TableProgress,
)
from services.shared.model.view.conflicts import ConflictReport

Schema = dict[str, Any]

_PLAIN: dict[object, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    Lsn: {"type": "string", "pattern": "^[0-9A-F]{1,8}/[0-9A-F]{1,8}$"},
}
_FRESHNESS: Schema = {
    "live": {"type": "boolean", "description": "Whether a coordinator has answered now."},
    "as_of": {"type": "number", "description": "The time of the figures, Unix seconds."},
}
_MODELS: tuple[type, ...] = (
    CleanupResult,
    ConflictReport,
    DryRunResult,
    DryRunStep,
    Endpoint,
    Event,
    MigrationOptions,
    MigrationView,
    Operation,
    Readiness,
    TableProgress,
)
_INTEGER: Schema = {"type": "integer"}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def answer(name: str, description: str = "Done.") -> Schema:
    """For `responses` of a route."""
    return {"description": description, "content": {"application/json": {"schema": ref(name)}}}


def components() -> dict[str, Schema]:
    """By the names that `answer` takes."""
    found: dict[str, Schema] = {"Problem": PROBLEM_SCHEMA}
    for model in _MODELS:
        _object(model, found)
    view = found["MigrationView"]["properties"]
    found["Migration"] = _exactly({**view, **_FRESHNESS})
    summary = {name: schema for name, schema in view.items() if name not in {"tables", "events"}}
    found["MigrationSummary"] = _exactly(
        {**summary, **_FRESHNESS, "problem": {"anyOf": [{"type": "null"}, ref("Problem")]}}
    )
    found["UnreadMigration"] = _exactly({"migration_id": {"type": "string"}, "problem": ref("Problem")})
    found["Migrations"] = {
        "type": "array",
        "items": {"anyOf": [ref("MigrationSummary"), ref("UnreadMigration")]},
    }
    found["Operations"] = _array("Operation")
    found["Tables"] = _exactly({"total": _INTEGER, "tables": _array("TableProgress"), **_FRESHNESS})
    found["Events"] = _exactly({"first": _INTEGER, "last": _INTEGER, "events": _array("Event")})
    found["DryRun"] = _exactly({"steps": _array("DryRunStep"), "result": ref("DryRunResult")})
    found["Configuration"] = _exactly(
        {
            "migration_id": {"type": "string"},
            "coordinator": {"type": "string", "description": "Its address; empty if none runs."},
            "source": ref("Endpoint"),
            "destination": ref("Endpoint"),
            "options": ref("MigrationOptions"),
        }
    )
    found["Logs"] = _exactly(
        {"logs": {"type": "array", "items": _exactly({"name": {"type": "string"}, "bytes": _INTEGER})}}
    )
    found["Log"] = _exactly(
        {
            "name": {"type": "string"},
            "offset": {**_INTEGER, "description": "Where the lines begin, in bytes."},
            "next_offset": {**_INTEGER, "description": "Where to continue."},
            "lines": {"type": "array", "items": {"type": "string"}},
        }
    )
    found["Certificate"] = {
        "type": "object",
        "description": "See docs/certificate.schema.json.",
        "required": ["certificate", "sha256"],
        "properties": {"certificate": {"type": "object"}, "sha256": {"type": "string"}},
    }
    return found


def _exactly(properties: Schema) -> Schema:
    return {
        "type": "object",
        "required": list(properties),
        "properties": properties,
        "additionalProperties": False,
    }


def _array(name: str) -> Schema:
    return {"type": "array", "items": ref(name)}


def _schema(kind: Any, found: dict[str, Schema]) -> Schema:
    if isinstance(kind, UnionType):
        return {
            "anyOf": [
                {"type": "null"} if one is type(None) else _schema(one, found) for one in get_args(kind)
            ]
        }
    if get_origin(kind) is tuple:
        return {"type": "array", "items": _schema(get_args(kind)[0], found)}
    if kind in _PLAIN:
        return _PLAIN[kind]
    if issubclass(kind, StrEnum):
        return {"type": "string", "enum": [one.value for one in kind]}
    return _object(kind, found)


def _object(model: type, found: dict[str, Schema]) -> Schema:
    assert is_dataclass(model), model
    name = model.__name__
    if name not in found:
        found[name] = {}
        hints = get_type_hints(model)
        properties = {field.name: _schema(hints[field.name], found) for field in fields(cast("Any", model))}
        found[name] = _exactly(properties)
    return ref(name)
