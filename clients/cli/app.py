"""The command group, and how errors become messages and exit codes."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Any

import click

from clients.cli.signals import Interrupted
from clients.cli.usage_errors import without_secrets
from clients.diagnostics import print_error
from services.shared.model import ErrorKind, PgmigError

_EPILOG = """Exit codes: 0 done, 1 internal error, 2 usage, 3 refused by a check and nothing changed,
4 unreachable, 5 the migration stopped and keeps its state, 6 timed out and rolled back, 7 not found,
8 conflict, 9 cleanup --force could not remove everything; 128 and the number of a signal: 130 Ctrl-C,
143 SIGTERM."""


_COMMANDS = {
    "clone": "clone:clone",
    "follow": "clone:follow",
    "status": "status:status",
    "watch": "watch:watch",
    "tui": "watch:tui",
    "list": "status:list_command",
    "serve": "serve:serve",
    "pause": "pause:pause",
    "resume": "pause:resume",
    "resync-table": "resync_table:resync_table",
    "skip-transaction": "skip_transaction:skip_transaction",
    "switchover": "switchover:switchover",
    "rollback": "rollback:rollback",
    "finalize": "rollback:finalize",
    "operations": "operations:operations",
    "certificate": "certificate:certificate",
    "conflicts": "conflicts:conflicts",
    "unfreeze": "teardown:unfreeze",
    "abort": "teardown:abort",
    "cleanup": "teardown:cleanup",
}
"""Module and function of each command in clients.cli.commands. A module is imported when it is needed."""


class PgmigGroup(click.Group):
    """Prints errors to stderr as `error:` and `hint:`, and exits with the code of their kind."""

    _arguments: tuple[str, ...] = ()

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module, _, name = _COMMANDS.get(cmd_name, "").partition(":")
        if not module:
            return None
        command: click.Command = getattr(import_module(f"clients.cli.commands.{module}"), name)
        return command

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        self._arguments = tuple(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.ClickException as exc:
            raise without_secrets(exc, self._arguments) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PgmigError as exc:
            print_error(exc)
            ctx.exit(int(exc.exit_code))
        except Interrupted as exc:
            ctx.exit(exc.exit_code)
        except BrokenPipeError:
            _forget_stdout()
            ctx.exit(128 + signal.SIGPIPE)
        except click.ClickException as exc:
            raise without_secrets(exc, self._arguments) from None
        except (click.exceptions.Exit, click.Abort):
            raise
        except Exception as exc:
            if os.environ.get("PGMIG_DEBUG"):
                raise
            print_error(unexpected(exc))
            ctx.exit(int(unexpected(exc).exit_code))


def unexpected(exc: Exception) -> PgmigError:
    """A defect of pgmig, reported without a traceback."""
    return PgmigError(
        ErrorKind.INTERNAL,
        f"unexpected {type(exc).__name__}: {exc}",
        "this is a defect of pgmig; PGMIG_DEBUG=1 shows the traceback",
    )


def _forget_stdout() -> None:
    """The reader of our output is gone (`| head`), so the interpreter must not flush to it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(
    cls=PgmigGroup,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="pgmig", prog_name="pgmig-cli")
def cli() -> None:
    """Migrate a live PostgreSQL database to another server, with seconds of write downtime.

    \b
    pgmig-cli clone --follow --source-uri … --dest-uri …    copy, then replicate changes
    pgmig-cli status                                        in another terminal
    pgmig-cli switchover --timeout 30s                      cut over
    """
