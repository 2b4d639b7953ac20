"""What a service process needs around its work: settings, log, telemetry, lifecycle, retry."""

from services.shared.runtime.assignments import AssignmentRunner
from services.shared.runtime.config import (
    DEFAULT_COORDINATOR,
    ENV_PREFIX,
    ServiceSettings,
    load_settings,
    new_worker_id,
)
from services.shared.runtime.files import replace_file
from services.shared.runtime.lifecycle import explain, run_service
from services.shared.runtime.log import setup_logging
from services.shared.runtime.redaction import redact
from services.shared.runtime.retry import curable, retrying
from services.shared.runtime.telemetry import SpanName, extract, inject, setup_telemetry, span, tracer

__all__ = [
    "DEFAULT_COORDINATOR",
    "ENV_PREFIX",
    "AssignmentRunner",
    "ServiceSettings",
    "SpanName",
    "curable",
    "explain",
    "extract",
    "inject",
    "load_settings",
    "new_worker_id",
    "redact",
    "replace_file",
    "retrying",
    "run_service",
    "setup_logging",
    "setup_telemetry",
    "span",
    "tracer",
]
