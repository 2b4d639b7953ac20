"""The command line of a service: `--help` and `--version`, and nothing else.

Everything else is set with environment variables. Any other argument is refused. The error does not repeat
it, because it may be a connection string that was meant for another program.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version

from services.shared.model import ExitCode
from services.shared.runtime.config import ENV_PREFIX, ServiceSettings
from services.shared.runtime.diagnostics import report

_HELP = frozenset({"-h", "--help"})


def answered(name: str, kind: type[ServiceSettings], arguments: Sequence[str]) -> ExitCode | None:
    """The exit code if the command line asks for help or the version, or is wrong; None: run."""
    if not arguments:
        return None
    if len(arguments) == 1 and arguments[0] in _HELP:
        sys.stdout.write(_help(name, kind))
        return ExitCode.OK
    if len(arguments) == 1 and arguments[0] == "--version":
        sys.stdout.write(f"pgmig-{name}, version {version('pgmig')}\n")
        return ExitCode.OK
    report(
        f"pgmig-{name}: it takes no arguments but --help and --version (set environment variables instead)"
    )
    return ExitCode.USAGE


def _help(name: str, kind: type[ServiceSettings]) -> str:
    variables = "".join(f"  {ENV_PREFIX}{field.upper()}\n" for field in kind.model_fields)
    return (
        f"Usage: pgmig-{name} [--help | --version]\n\n"
        f"Runs the {name} until SIGTERM or SIGINT. It is configured by environment variables, which\n"
        f"docs/operating.md explains:\n\n{variables}"
    )
