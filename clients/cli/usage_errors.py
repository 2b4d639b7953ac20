"""Usage errors that do not repeat connection strings.

click quotes the argument that it does not understand. Anything that may be a connection string, or a piece
of one that the shell has split at a space, is removed.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

from services.shared.model.redaction import redact

_HIDDEN = "..."
_STRAY = (
    "This command takes options only; an argument without an option's name was given. "
    "Connection strings are given as --source-uri and --dest-uri."
)


def without_secrets(error: click.ClickException, arguments: Sequence[str]) -> click.ClickException:
    """The error, with another message if it quotes such an argument."""
    if not isinstance(error, click.UsageError):
        return error
    message = error.format_message()
    if "unexpected extra argument" in message:
        return click.UsageError(_STRAY, error.ctx)
    hidden = message
    for argument in sorted(filter(_may_be_secret, arguments), key=len, reverse=True):
        name, equals, value = argument.partition("=")
        quoted = value if equals and name.startswith("--") else argument
        for form in (quoted, repr(quoted)[1:-1]):
            hidden = hidden.replace(form, _HIDDEN)
    hidden = redact(hidden)
    return error if hidden == message else click.UsageError(hidden, error.ctx)


def _may_be_secret(argument: str) -> bool:
    return "://" in argument or "@" in argument or "password" in argument.lower()
