"""Log lines: their form, and that no credential gets into them."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from services.shared.model.redaction import redact
from services.shared.runtime.config import ServiceSettings
from services.shared.runtime.log import JsonFormatter, TextFormatter, setup_logging


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def record(message: str, *args: object, failed: BaseException | None = None) -> logging.LogRecord:
    exc_info = (type(failed), failed, failed.__traceback__) if failed is not None else None
    return logging.LogRecord("a.b", logging.WARNING, __file__, 1, message, args, exc_info)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("to postgresql://u:hunter2@h:5432/d now", "to postgresql://u:***@h:5432/d now"),
        ("postgres://u:hunter2:@/x@h/d", "postgres://u:***@h/d"),
        ("postgresql://:hunter2@h/d", "postgresql://:***@h/d"),
        ("nats://hunter2@h:4222", "nats://***@h:4222"),
        ("tls://hunter2@h:4222", "tls://***@h:4222"),
        ("nats://u:hunter2@h:4222", "nats://u:***@h:4222"),
        ("host=h password=hunter2 dbname=d", "host=h password=*** dbname=d"),
        ("password = 'hunter2 it\\'s' user=u", "password = *** user=u"),
        ("postgresql://h/d?user=u&password=hunter2&x=1", "postgresql://h/d?user=u&password=***&x=1"),
        ("sslpassword=hunter2", "sslpassword=***"),
        ('{"password": "hunter2"}', '{"password": ***}'),
        ("{'token': 'hunter2'}", "{'token': ***}"),
    ],
)
def test_credentials_are_taken_out(text: str, clean: str) -> None:
    assert redact(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u@h:5432/d",
        "nats://127.0.0.1:4222",
        "coordinator at 127.0.0.1:7432, mail me@example.org",
        "slot pgmig_m1 at 0/16B3748",
    ],
)
def test_text_without_credentials_stays(text: str) -> None:
    assert redact(text) == text


def test_several_nats_servers_lose_all_their_tokens() -> None:
    clean = redact("nats://hunter2@h1:1,nats://hunter2@h2:2, nats://u:hunter2@h3:3")
    assert "hunter2" not in clean
    assert "h2:2" in clean


def _fail() -> BaseException:
    try:
        raise ValueError("cannot use postgresql://u:hunter2@h/d")
    except ValueError as exc:
        return exc


@pytest.mark.parametrize("formatter", [TextFormatter("decoder"), JsonFormatter("decoder")])
def test_no_credential_leaves_by_argument_or_traceback(formatter: logging.Formatter) -> None:
    line = formatter.format(record("dialling %s", "postgresql://u:hunter2@h/d", failed=_fail()))
    assert "hunter2" not in line
    assert "ValueError" in line


def test_a_json_line_is_one_object_with_the_documented_fields() -> None:
    line = JsonFormatter("decoder").format(record("two\nlines %d", 7, failed=_fail()))
    fields = json.loads(line)
    assert "\n" not in line
    assert fields["message"] == "two\nlines 7"
    assert (fields["level"], fields["service"], fields["logger"]) == ("warning", "decoder", "a.b")
    assert fields["at"].endswith("Z")
    assert "Traceback" in fields["exception"]
    assert "trace_id" not in fields


def test_a_line_within_a_span_carries_its_trace_id() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    with provider.get_tracer("test").start_as_current_span("s") as span:
        traced = trace.format_trace_id(span.get_span_context().trace_id)
        assert json.loads(JsonFormatter("d").format(record("x")))["trace_id"] == traced
        assert TextFormatter("d").format(record("x")).endswith(f"trace={traced}")


def test_set_up_logs_to_stderr_from_the_chosen_level(
    root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging("decoder", ServiceSettings(log_level="warning"))
    logging.getLogger("x").info("quiet")
    logging.getLogger("x").warning("loud")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "loud" in captured.err
    assert "quiet" not in captured.err
    assert root_logger.level == logging.WARNING
    assert sys.stderr is not None
