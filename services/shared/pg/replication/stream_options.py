"""What START_REPLICATION asks of pgoutput, by the source's version.

Every source is asked for the same stream, as far as it can give it:

proto_version  1 everywhere: transactions come whole, in commit order. Later versions of the protocol
               add transactions that are still in progress, or that are prepared, which only
               their commit could make count; `streaming` and `two_phase` need them.
binary         never (it is there from 14 on): text is what two major versions agree on.
messages       from 14 on, which is how the switchover's sentinel travels. Before, its commit, an
               empty transaction, tells as much: see services.coordinator.operations.switchover_steps.
origin         never (it is there from 16 on): `any`, the default, is what older versions do, and a
               source that is itself a replica has to hand on all it got.

https://www.postgresql.org/docs/current/protocol-logical-replication.html
"""

from __future__ import annotations

from collections.abc import Iterable

MESSAGES_SINCE = 140000
"""server_version_num from which pgoutput carries logical messages."""


def stream_options(server_version_num: int, publications: Iterable[str]) -> dict[str, str]:
    """Option names and values, in order. The values still have to be quoted as literals."""
    options = {
        "proto_version": "1",
        "publication_names": ",".join(_quoted(name) for name in publications),
    }
    if server_version_num >= MESSAGES_SINCE:
        options["messages"] = "true"
    return options


def _quoted(name: str) -> str:
    """The server splits the list as it does identifiers."""
    return '"' + name.replace('"', '""') + '"'
