"""Logging: one line per event on stderr, as text or JSON, without credentials.

The formatter redacts the finished line, so that arguments, exception texts and tracebacks of other
libraries are redacted too. A line that is written while a span is active contains its trace id. Callers
must never log row values.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Literal

from opentelemetry import trace

from services.shared.model import ErrorKind, PgmigError
from services.shared.model.redaction import redact
from services.shared.runtime.config import ServiceSettings
from services.shared.runtime.logfile import OutputFileHandler

# Libraries that log a lot. Their failures are raised as errors of ours.
_QUIET = ("asyncio", "grpc", "nats", "opentelemetry", "psycopg")


def _trace_id() -> str:
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else ""


def _time(record: logging.LogRecord) -> str:
    """RFC 3339 in UTC, with milliseconds."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


class TextFormatter(logging.Formatter):
    """`TIME LEVEL service: message`, followed by the traceback."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        traced = _trace_id()
        suffix = f" trace={traced}" if traced else ""
        line = f"{_time(record)} {record.levelname:<7} {self._service}: {record.getMessage()}{suffix}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return redact(line)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: at, level, service, logger, message, trace_id, exception."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "at": _time(record),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if traced := _trace_id():
            fields["trace_id"] = traced
        if record.exc_info:
            fields["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(fields, ensure_ascii=False)


def _formatter(service: str, style: Literal["text", "json"]) -> logging.Formatter:
    return JsonFormatter(service) if style == "json" else TextFormatter(service)


def _handler(log_file: Path | None) -> logging.Handler:
    if log_file is None:
        return logging.StreamHandler(sys.stderr)
    try:
        return OutputFileHandler(log_file)
    except OSError as exc:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"cannot write the log to {log_file}: {exc.strerror}",
            "choose a file of your own with PGMIG_LOG_FILE",
        ) from exc


def setup_logging(service: str, settings: ServiceSettings) -> None:
    """Send the process's log to stderr, or to the log file. Replaces any earlier setup.

    Raises PgmigError(INVALID_ARGUMENT) if the file cannot be opened."""
    handler = _handler(settings.log_file)
    handler.setFormatter(_formatter(service, settings.log_format))
    level = settings.log_level.upper()
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.DEBUG if level == "DEBUG" else logging.WARNING)
    logging.captureWarnings(True)
