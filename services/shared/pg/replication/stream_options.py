"""The options of pgoutput for START_REPLICATION, by the source's version.

Every source is asked for the same stream, as far as it supports it:

proto_version  1 for all: complete transactions in commit order. Later versions add transactions that are
               in progress or prepared, which take effect only when they commit; `streaming` and
               `two_phase` need these versions.
binary         never used (it exists from 14 on): text is the same in all major versions.
messages       used from 14 on: the switchover's sentinel is sent as such a message. Before 14, the sentinel's
               commit, an empty transaction, has the same meaning: see
               services.coordinator.operations.switchover_steps.
origin         `none` if only local transactions are wanted, from 16 on; before that, the decoder drops the
               others (services.decoder.batcher). Otherwise not used: the default `any` is the behavior of
               older versions, and a source that is itself a replica has to send everything that it received.

https://www.postgresql.org/docs/current/protocol-logical-replication.html
"""

from __future__ import annotations

from collections.abc import Iterable

MESSAGES_SINCE = 140000
"""server_version_num from which pgoutput sends logical messages."""
ORIGIN_SINCE = 160000
"""server_version_num from which pgoutput can leave out transactions with a replication origin."""


def stream_options(
    server_version_num: int, publications: Iterable[str], *, local_only: bool = False
) -> dict[str, str]:
    """Option names and values, in order. The values still have to be quoted as literals. local_only: without
    transactions that have a replication origin, where the server supports that."""
    options = {
        "proto_version": "1",
        "publication_names": ",".join(_quoted(name) for name in publications),
    }
    if server_version_num >= MESSAGES_SINCE:
        options["messages"] = "true"
    if local_only and server_version_num >= ORIGIN_SINCE:
        options["origin"] = "none"
    return options


def _quoted(name: str) -> str:
    """The server splits the list with the rules for identifiers."""
    return '"' + name.replace('"', '""') + '"'
