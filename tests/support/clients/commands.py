"""pgmig-cli in this process, with a coordinator whose migrations the test defines."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from clients.__main__ import faces
from clients.cli.app import cli
from services.shared.model import MigrationView, Phase
from tests.fakes.thread import ServedControl

URIS = ("--source-uri", "postgresql://a:hush@h/s", "--dest-uri", "postgresql://b:hush@h/d")


def pgmig(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), prog_name="pgmig-cli", obj=faces())


def put(served: ServedControl, migration_id: str = "m", phase: Phase = Phase.STREAMING) -> MigrationView:
    return served.do(lambda: served.control.put(MigrationView(migration_id, phase)))


def at(served: ServedControl, *arguments: str) -> Result:
    return pgmig(*arguments, "--coordinator", served.address)


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)
