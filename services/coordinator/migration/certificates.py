"""The certificates in the record: first a draft, then issued. An issued certificate never changes.

A certificate is issued by the record that is written to the store by compare and set, before any client sees
it. So of two coordinators only one issues it, and everybody gets the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import cast

from services.coordinator.migration.record import Record
from services.shared.model import ErrorKind, EventLevel, PgmigError, SwitchoverResult
from services.shared.model.view.canonical import canonical, digest, encodable
from services.shared.model.view.certificate import Certificate, StoredCertificate, no_certificate
from services.shared.model.view.jsonview import to_json

KEPT = 10
"""Certificates of the last operations."""


def drafted(operation_id: str, certificate: Certificate) -> StoredCertificate:
    document = to_json(certificate)
    try:
        text = canonical(document)
    except ValueError:  # writers are blocked, so this is not done unless it is needed
        text = canonical(encodable(document))
    return StoredCertificate(operation_id, text)


def added(
    known: tuple[StoredCertificate, ...], certificate: StoredCertificate
) -> tuple[StoredCertificate, ...]:
    """With one more, of the last operation."""
    return (*known[1 - KEPT :], certificate)


def measured(record: Record, result: SwitchoverResult, *, workers_stopped: bool) -> Record:
    """With the downtime in the draft of the last operation."""
    if not record.certificates or record.certificates[-1].issued:
        return record
    last = record.certificates[-1]
    document = cast("dict[str, dict[str, object]]", json.loads(last.document))
    document["freeze"] |= {
        "downtime_measured": True,
        "write_downtime_ms": result.write_downtime_ms,
        "workers_stopped": workers_stopped,
    }
    last = replace(last, document=canonical(document))
    return replace(record, certificates=(*record.certificates[:-1], last))


def issued(record: Record) -> Record:
    """With the draft of a decided switchover issued; the same record if there is none."""
    if not record.certificates:  # a draft is stored by the same write as the decision
        return record
    last, result = record.certificates[-1], record.switchover
    if last.issued or result is None:
        return record
    last = replace(last, sha256=digest(last.document))
    return replace(
        record,
        certificates=(*record.certificates[:-1], last),
        switchover=replace(result, certificate_sha256=last.sha256),
    )


def found(record: Record, operation_id: str) -> StoredCertificate:
    """Of that operation, or the last one. Raises NOT_FOUND, and WRONG_PHASE if it is not issued yet."""
    known = [one for one in record.certificates if operation_id in {"", one.operation_id}]
    if not known:
        raise no_certificate(record.migration_id)
    if not known[-1].issued:
        raise PgmigError(
            ErrorKind.WRONG_PHASE,
            f"the certificate of migration {record.migration_id} is not issued yet",
            "it is issued when the switchover has ended; ask again then",
        )
    return known[-1]


def announcement(record: Record) -> tuple[EventLevel, str] | None:
    """The line for the event log about the last certificate, unless the log has it."""
    last = record.certificates[-1] if record.certificates else None
    if last is None or not last.issued or any(last.sha256 in event.text for event in record.events):
        return None
    return EventLevel.INFO, f"certificate issued: SHA-256 {last.sha256} (pgmig-cli certificate)"
