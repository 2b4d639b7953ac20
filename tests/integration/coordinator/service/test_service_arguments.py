"""The services' command lines: help, version, and a refusal that repeats nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SECRET = "hush-hush"


def run(service: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PGMIG_")}
    return subprocess.run(
        [sys.executable, "-m", f"services.{service}", *arguments],
        env={**environment, "PGMIG_NATS_URL": "nats://127.0.0.1:1", "PGMIG_LISTEN": "127.0.0.1:0"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("service", ["coordinator", "decoder", "copier", "applier"])
def test_help_version_and_what_is_unknown_do_not_start_the_service(service: str) -> None:
    helped = run(service, "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert f"Usage: pgmig-{service}" in helped.stdout
    assert "PGMIG_NATS_URL" in helped.stdout
    versioned = run(service, "--version")
    assert versioned.returncode == 0
    assert versioned.stdout.startswith(f"pgmig-{service}, version ")
    refused = run(service, "--source-uri", f"postgresql://app:{SECRET}@old/app")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--help" in refused.stderr
    assert SECRET not in refused.stderr
