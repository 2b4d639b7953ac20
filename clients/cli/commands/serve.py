"""`serve`: the web server."""

from __future__ import annotations

from pathlib import Path

import click

from clients.cli.faces import Faces
from clients.cli.local_places import LocalPlaces
from clients.cli.option_values import listen_address
from clients.cli.options import Invocation, place_options
from clients.cli.output import print_json, print_lines
from clients.cli.signals import run
from clients.diagnostics import say
from clients.serving import ServerSettings

OWN_TOKEN = "web-token"  # noqa: S105 - the name of a file. No migration has it, because ids have no hyphens


@click.command()
@place_options
@click.option(
    "--listen",
    type=listen_address,
    metavar="HOST:PORT",
    envvar="PGMIG_WEB_LISTEN",
    show_envvar=True,
    default="127.0.0.1:7654",
    show_default=True,
    help="Where to listen. Everybody who reaches it can read the state of the migrations.",
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    envvar="PGMIG_WEB_ALLOWED_HOST",
    show_envvar=True,
    help="A host name under which browsers reach the server, for example through a reverse proxy. localhost "
    "and IP addresses are always allowed. Repeatable.",
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    envvar="PGMIG_WEB_TOKEN_FILE",
    show_envvar=True,
    help="File whose first line is the operator's token, which requests that change something must contain. "
    "Default: PGMIG_WEB_TOKEN, else a file in the state directory, which is created.",
)
@click.option(
    "--allow-hooks",
    is_flag=True,
    help="Accept commands in requests for a switchover. The coordinator runs them on its host, so whoever "
    "has the token can run programs there.",
)
@click.pass_context
def serve(
    ctx: click.Context,
    invocation: Invocation,
    *,
    listen: tuple[str, int],
    allowed_hosts: tuple[str, ...],
    token_file: Path | None,
    allow_hooks: bool,
) -> None:
    """Serve a REST and WebSocket API for the migrations of this machine, or of a coordinator.

    \b
    pgmig-cli serve
    curl http://127.0.0.1:7654/api/v1/migrations

    The server moves no data: a migration continues when it ends. It does not encrypt: put a reverse proxy
    with TLS before it, unless it listens on this machine only.
    """
    host, port = listen
    own_token_file = invocation.state_dir / OWN_TOKEN
    settings = ServerSettings(host, port, allowed_hosts, token_file, own_token_file, allow_hooks)

    def announce(url: str, token_is: str) -> None:
        if invocation.json:
            print_json({"url": url, "token": token_is}, line=True)
            return
        print_lines([url])
        say(f"serving the API at {url}/api/v1/; the operator's token is {token_is}")

    faces: Faces = ctx.obj
    run(faces.web(settings, LocalPlaces(invocation), announce))
