"""`pgmig-cli serve` as a process."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.support.migrations.cli import program
from tests.support.servers.process import launch_argv

Started = tuple[subprocess.Popen[str], dict[str, Any]]


@contextmanager
def serve_program(environment: Mapping[str, str], *arguments: str) -> Iterator[Started]:
    """The process, which listens on a free port unless `--listen` says otherwise, and the JSON that it
    prints."""
    command = [*program(), "serve", "--listen", "127.0.0.1:0", "--output", "json", *arguments]
    process = subprocess.Popen(
        launch_argv(command, None, signal.SIGTERM),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        yield process, json.loads(line)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()
