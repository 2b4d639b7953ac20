"""Which commands begin the fork server before they have read their options."""

from __future__ import annotations

import sys

import pytest

from clients.cli.embedded import early


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
    assert early.likely(arguments, environ) is expected


def test_none_does_where_a_fork_is_not_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not early.likely(["clone"], {})
