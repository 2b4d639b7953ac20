"""A certificate as a page that a person reads: lines of plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from clients.presentation.figures import precise, printable
from services.shared.model import counted
from services.shared.model.view.certificate import (
    Certificate,
    CertifiedServer,
    CheckOutcome,
)

_NAMED_AT_MOST = 20
_UNKNOWN = "not known"


def page(certificate: Certificate, sha256: str) -> list[str]:
    """Names from databases cannot control the terminal. Long lists are cut; the JSON document is complete."""
    return [printable(line) for line in _lines(certificate, sha256)]


def _lines(one: Certificate, sha256: str) -> Iterator[str]:
    yield f"CERTIFICATE OF A SWITCHOVER  {one.format}"
    yield ""
    yield from _fields(
        (
            "migration",
            f"{one.migration.id}, instance {one.migration.instance}, since {one.migration.created_at}",
        ),
        (
            "operation",
            f"{one.operation.id}, {one.operation.kind} {one.operation.direction}, requested "
            f"{one.operation.requested_at}",
        ),
        ("pgmig", one.pgmig_version),
        ("SHA-256", sha256),
    )
    yield from _section("Servers", _server("source", one.source), _server("destination", one.destination))
    yield from _section("Freeze", _fields(*_freeze(one)))
    yield from _section("Positions in the source's WAL", _fields(*_positions(one)))
    yield from _section("Data", _fields(*_data(one)))
    yield from _section("Checks", _checks(one))
    yield from _section("Not replicated in full", _not_followed(one))
    yield from _section(
        "Writes of others to the destination",
        _cut(f"  {w.schema}.{w.table}: {w.session} at {w.at}" for w in one.destination_writes),
        none="none was found",
    )
    yield from _section(
        "Comparisons of rows",
        (
            f"  {c.at}: {counted(c.tables, 'table')}, {c.rows} rows, {c.differences} differ"
            for c in one.comparisons
        ),
        none="none was made",
    )
    yield from _section(
        "Sequences",
        _cut(
            f"  {s.schema}.{s.name} = {s.last_value}{'' if s.called else ' (not called)'}"
            for s in one.sequences
        ),
        none="none",
    )
    yield from _section("Warnings", _cut(f"  {w.at}  {w.text}" for w in one.warnings), none="none")
    if not one.warnings_complete:
        yield "  earlier lines of the event log were removed, and warnings with them"


def _server(side: str, one: CertifiedServer) -> Iterator[str]:
    host = f"[{one.host}]" if ":" in one.host else one.host
    yield from _fields(
        (side, f"{host}:{one.port}/{one.database} (OID {one.database_oid}, {one.encoding})"),
        ("", f"PostgreSQL {one.server_version}, system identifier {one.system_identifier}"),
        ("", f"timeline {one.timeline}, WAL {one.insert_lsn}, flushed {one.flush_lsn}, at {one.clock}"),
    )


def _freeze(one: Certificate) -> Iterator[tuple[str, str]]:
    freeze = one.freeze
    yield "mode", freeze.mode
    if freeze.writes_blocked_at:
        yield "writes blocked", freeze.writes_blocked_at
        yield "database closed", freeze.closed_at or _UNKNOWN
    yield "decided", freeze.decided_at
    if freeze.downtime_measured and freeze.write_downtime_ms is not None:
        yield "write downtime", precise(freeze.write_downtime_ms / 1000)
    else:
        yield "write downtime", "not measured: the coordinator ended after the decision"
    if freeze.workers_stopped is not None:
        yield "workers", "stopped" if freeze.workers_stopped else "not known to have stopped"


def _positions(one: Certificate) -> Iterator[tuple[str, str]]:
    yield "copied from", str(one.positions.copied_from)
    yield "sentinel", str(one.positions.sentinel)
    yield "second sentinel", str(one.positions.second_sentinel)
    yield "destination has", str(one.positions.destination_progress)


def _data(one: Certificate) -> Iterator[tuple[str, str]]:
    volume = one.volume
    yield (
        "copied",
        f"{counted(volume.tables, 'table')}, {volume.rows_copied} rows, {volume.bytes_copied} bytes",
    )
    since = (
        "since the start" if volume.since_start else f"since {volume.counted_since}, when a coordinator began"
    )
    yield (
        "applied",
        f"at least {volume.transactions_applied} transactions, {volume.rows_applied} rows, {since}",
    )
    yield "sequences", f"{len(one.sequences)} set and verified"


def _checks(one: Certificate) -> Iterator[str]:
    for check in one.checks:
        mark = "passed  " if check.outcome is CheckOutcome.PASSED else "not made"
        yield f"  {mark}  {check.name}{f': {check.detail}' if check.detail else ''}"


def _not_followed(one: Certificate) -> Iterator[str]:
    lists = one.not_followed
    for what, names in (
        ("only INSERT and TRUNCATE", lists.inserts_only),
        ("copied once", lists.copied_only),
        ("unlogged, copied once", lists.unlogged),
    ):
        yield from _cut(f"  {what}: {name}" for name in names)
    options = one.options
    for what, patterns in (
        ("included tables", options.selection.include_tables),
        ("included schemas", options.selection.include_schemas),
        ("excluded tables", options.selection.exclude_tables),
        ("excluded schemas", options.selection.exclude_schemas),
        ("tables without rows", options.selection.exclude_table_data),
        ("objects not restored", options.skip_objects),
    ):
        if patterns:
            yield f"  {what}: {', '.join(patterns)}"
    for skip in one.skipped_transactions:
        yield f"  transaction {skip.xid} at {skip.lsn}, skipped by {skip.who} at {skip.at}: {skip.reason}"
    yield from _cut(f"  NOT VALID: {c.name} of {c.schema}.{c.table}" for c in one.constraints_not_valid)


def _section(title: str, *parts: Iterable[str], none: str = "nothing") -> Iterator[str]:
    lines = [line for part in parts for line in part]
    yield ""
    yield title if lines else f"{title}: {none}"
    yield from lines


def _fields(*rows: tuple[str, str]) -> Iterator[str]:
    for name, value in rows:
        yield f"  {name:<16} {value}"


def _cut(lines: Iterable[str]) -> Iterator[str]:
    found = list(lines)
    yield from found[:_NAMED_AT_MOST]
    if len(found) > _NAMED_AT_MOST:
        yield f"  and {len(found) - _NAMED_AT_MOST} more, in the JSON document"
