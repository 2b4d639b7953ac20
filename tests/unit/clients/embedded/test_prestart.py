"""Which commands begin the fork server before they have read their options, and what the program stands."""

from __future__ import annotations

import subprocess
import sys

import pytest

from clients.embedded import prestart


@pytest.mark.parametrize(
    ("arguments", "environ", "expected"),
    [
        (["clone", "--follow"], {}, True),
        (["clone", "--source-uri", "postgresql://a/b", "--dest-uri", "postgresql://c/d"], {}, True),
        (["clone", "--coordinator", "host:7432"], {}, False),
        (["clone", "--coordinator=host:7432"], {}, False),
        (["clone"], {"PGMIG_COORDINATOR": "host:7432"}, False),
        (["clone", "--help"], {}, False),
        (["status"], {}, False),
        (["follow"], {}, False),  # often joins a stack that runs
        (["--help"], {}, False),
        ([], {}, False),
    ],
)
def test_clone_without_a_coordinator_does(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], environ: dict[str, str], expected: bool
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert prestart.likely(arguments, environ) is expected


def test_none_does_where_a_fork_is_not_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not prestart.likely(["clone"], {})


def test_closed_standard_streams_change_no_exit_code() -> None:
    command = [sys.executable, "-m", "clients", "list", "--help"]
    closed = subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], check=False, timeout=60)
    assert closed.returncode == 0
