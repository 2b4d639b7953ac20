"""Options that several commands have, and the values made from them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from platformdirs import user_state_path

from clients.cli.option_values import address
from clients.cli.output import Output
from clients.diagnostics import warn
from services.shared.model import ErrorKind, MigrationId, PgmigError
from services.shared.model.redaction import has_password

DEFAULT_ID = "default"

Command = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Invocation:
    """migration_id: None if not given. coordinator: HOST:PORT or unix:PATH, None for this machine's."""

    migration_id: MigrationId | None
    coordinator: str | None
    state_dir: Path
    output: Output

    @property
    def json(self) -> bool:
        return self.output is Output.JSON


@dataclass(frozen=True, slots=True)
class Uris:
    """Connection strings with credentials; "" if not given."""

    source: str = field(default="", repr=False)
    destination: str = field(default="", repr=False)

    def require(self, why: str) -> None:
        """Raises PgmigError(INVALID_ARGUMENT) unless both are given."""
        missing = [
            option
            for option, uri in (("--source-uri", self.source), ("--dest-uri", self.destination))
            if not uri
        ]
        if missing:
            raise PgmigError(
                ErrorKind.INVALID_ARGUMENT,
                f"{' and '.join(missing)} missing: {why}",
                "give them as PGMIG_SOURCE_URI and PGMIG_DEST_URI, or in files (--source-uri-file)",
            )


_LONGEST_URI = 64 << 10

_COMMON = (
    click.option(
        "--id",
        "migration_id",
        type=MigrationId.parse,
        metavar="ID",
        envvar="PGMIG_ID",
        show_envvar=True,
        help=f"Which migration. Default: the only one that is known, else {DEFAULT_ID!r}.",
    ),
    click.option(
        "--coordinator",
        type=address,
        metavar="ADDRESS",
        envvar="PGMIG_COORDINATOR",
        show_envvar=True,
        help="Address of a running coordinator, HOST:PORT or unix:/PATH. "
        "Default: an embedded stack on this machine.",
    ),
    click.option(
        "--state-dir",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="PGMIG_STATE_DIR",
        show_envvar=True,
        default=lambda: user_state_path("pgmig"),
        show_default="pgmig below XDG_STATE_HOME",
        help="Directory for the state of this machine's migrations.",
    ),
    click.option(
        "--output",
        "-o",
        type=click.Choice([output.value for output in Output]),
        default=Output.TABLE.value,
        show_default=True,
        help="A table for people, or JSON (one document; one a line from commands that stream).",
    ),
)

_URIS = (
    click.option(
        "--source-uri",
        envvar="PGMIG_SOURCE_URI",
        metavar="URI",
        show_envvar=True,
        help="Database to copy from.",
    ),
    click.option(
        "--dest-uri", envvar="PGMIG_DEST_URI", metavar="URI", show_envvar=True, help="Database to copy to."
    ),
    click.option(
        "--source-uri-file",
        type=click.Path(dir_okay=False, allow_dash=True),
        metavar="FILE",
        help="File that holds --source-uri in one line, and so no command line shows it; - is stdin.",
    ),
    click.option(
        "--dest-uri-file",
        type=click.Path(dir_okay=False, allow_dash=True),
        metavar="FILE",
        help="The same for --dest-uri. Where both are -, stdin holds two lines, the source's first.",
    ),
)


def common_options(command: Command) -> Command:
    """Adds --id, --coordinator, --state-dir and --output; passes an Invocation first."""

    @wraps(command)
    def wrapper(
        migration_id: MigrationId | None,
        coordinator: str | None,
        state_dir: Path,
        output: str,
        **rest: Any,
    ) -> Any:
        invocation = Invocation(migration_id, coordinator, _place(state_dir), Output(output))
        return command(invocation, **rest)

    return _decorated(wrapper, _COMMON)


def place_options(command: Command) -> Command:
    """As `common_options`, for commands that are not about one migration: without --id."""

    @wraps(command)
    def wrapper(coordinator: str | None, state_dir: Path, output: str, **rest: Any) -> Any:
        return command(Invocation(None, coordinator, _place(state_dir), Output(output)), **rest)

    return _decorated(wrapper, _COMMON[1:])


def _place(state_dir: Path) -> Path:
    return state_dir.expanduser().absolute()


def uri_options(command: Command) -> Command:
    """Adds --source-uri and --dest-uri, and a -file option for each; passes them as `uris`."""

    @wraps(command)
    @click.pass_context
    def wrapper(
        ctx: click.Context,
        /,
        *args: Any,
        source_uri: str | None,
        dest_uri: str | None,
        source_uri_file: str | None,
        dest_uri_file: str | None,
        **rest: Any,
    ) -> Any:
        source = _uri(ctx, "source_uri", source_uri, source_uri_file)
        destination = _uri(ctx, "dest_uri", dest_uri, dest_uri_file)
        return command(*args, uris=Uris(source, destination), **rest)

    return _decorated(wrapper, _URIS)


def _uri(ctx: click.Context, name: str, given: str | None, file: str | None) -> str:
    """The URI from the file, if there is one. The file overrides the environment."""
    option = f"--{name.replace('_', '-')}"
    on_command_line = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    if file is None:
        if on_command_line and given and has_password(given):
            warn(
                f"every user of this machine can read the password of {option} while this runs: give the "
                f"connection string with {option}-file or PGMIG_{name.upper()}, or the password in ~/.pgpass"
            )
        return given or ""
    if on_command_line:
        raise click.UsageError(f"{option} and {option}-file exclude each other")
    return _first_line(file, option)


def _first_line(file: str, option: str) -> str:
    """file: - for stdin, from which each option reads one line."""
    try:
        if file == "-":
            line = sys.stdin.readline(_LONGEST_URI)
        else:
            with Path(file).open(encoding="utf-8") as opened:
                line = opened.readline(_LONGEST_URI)
    except (OSError, UnicodeDecodeError) as exc:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT, f"the file of {option}-file cannot be read: {exc.__class__.__name__}"
        ) from None
    uri = line.strip()
    if not uri:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"the file of {option}-file does not begin with a connection string",
            "put it into the first line",
        )
    return uri


def skip_object_option(command: Command) -> Command:
    """Adds --skip-object; passes `skip_objects`."""
    option = click.option(
        "--skip-object",
        "skip_objects",
        multiple=True,
        metavar="OBJECT",
        help="Do not restore this object of the schema, nor what needs it; named as the error names it, "
        "like 'view app.recent'. Recorded with the migration. Repeatable.",
    )
    decorated: Command = option(command)
    return decorated


def _decorated(command: Command, options: tuple[Callable[[Command], Command], ...]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
