"""Sessions that are read-only by default: where this was set, and so how to reset it."""

from __future__ import annotations

from services.shared.model import ErrorKind, PgmigError
from services.shared.pg.catalog.server import ServerFacts

_SETTING = "default_transaction_read_only"
DATABASE = "database"
"""`pg_settings.source` of a setting by ALTER DATABASE, which an earlier switchover leaves behind."""


def refusal(facts: ServerFacts, side: str) -> PgmigError:
    """The error for pgmig's sessions on that side, which could not write. side: source or destination."""
    kind = ErrorKind.SOURCE_NOT_READY if side == "source" else ErrorKind.DESTINATION_NOT_READY
    where, remedy = _origin(facts)
    return PgmigError(
        kind, f"sessions on database {facts.dbname} of the {side} are read-only by default: {where}", remedy
    )


def _origin(facts: ServerFacts) -> tuple[str, str]:
    role, database = facts.role, facts.dbname
    match facts.read_only_from:
        case "database":
            return f"{_SETTING} is set for the database", f"ALTER DATABASE {database} RESET {_SETTING}"
        case "user":
            return f"{_SETTING} is set for role {role}", f"ALTER ROLE {role} RESET {_SETTING}"
        case "database user":
            return (
                f"{_SETTING} is set for role {role} in this database",
                f"ALTER ROLE {role} IN DATABASE {database} RESET {_SETTING}",
            )
        case "client" | "environment variable":
            return (
                f"{_SETTING} is set by the connection string or by PGOPTIONS",
                f"remove {_SETTING} from its options",
            )
        case "command line":
            return f"{_SETTING} is set on the server's command line", "remove it there and restart the server"
        case _:
            return (
                f"{_SETTING} is set for the whole server",
                f"ALTER SYSTEM RESET {_SETTING} or correct postgresql.conf, then SELECT pg_reload_conf()",
            )
