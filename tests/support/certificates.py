"""A certificate with a value in every field, and files of certificates."""

from __future__ import annotations

from services.shared.model import (
    Direction,
    FreezeMode,
    LargeObjects,
    Lsn,
    NoKeyTables,
    OperationKind,
    Selection,
    TableId,
)
from services.shared.model.view.canonical import canonical, digest
from services.shared.model.view.certificate import (
    FORMAT,
    Certificate,
    CertifiedCheck,
    CertifiedConstraint,
    CertifiedFreeze,
    CertifiedMigration,
    CertifiedOperation,
    CertifiedOptions,
    CertifiedPositions,
    CertifiedSequence,
    CertifiedServer,
    CertifiedSkip,
    CertifiedVolume,
    CertifiedWarning,
    CertifiedWrite,
    CheckName,
    CheckOutcome,
    Comparison,
    NotFollowed,
    StoredCertificate,
)
from services.shared.model.view.jsonview import to_json

AT = "2026-03-01T10:20:30.456Z"


def _server(host: str, version: int) -> CertifiedServer:
    number = version * 10_000 + 4
    lsn = Lsn(0x16B374D848)
    system = "7401234567890123456"
    return CertifiedServer(
        host, 5432, "shop", "4294967295", system, f"{version}.4", number, 3, "UTF8", lsn, lsn, AT
    )


CERTIFICATE = Certificate(
    FORMAT,
    "1.0",
    CertifiedMigration("m1", "9d1c", AT),
    CertifiedOperation("8f3a", "r", OperationKind.SWITCHOVER, Direction.FORWARD, AT, 30_000, held=False),
    CertifiedOptions(
        Selection(exclude_tables=("app.log*",)),
        NoKeyTables.INSERT_ONLY,
        LargeObjects.COPY,
        data_only=False,
        no_owner=True,
        no_acl=False,
        skip_objects=("view app.recent",),
    ),
    _server("old.example", 14),
    _server("2001:db8::1", 18),
    CertifiedFreeze(FreezeMode.DATABASE, AT, AT, AT, True, 412, True),
    CertifiedPositions(Lsn(0x100), Lsn(0x200), Lsn(0x300), Lsn(0x300)),
    CertifiedVolume(2, "9007199254740993", "0", "12", "34", AT, True),
    (CertifiedCheck(CheckName.LOCKS_HELD, CheckOutcome.PASSED, "é"),),
    (CertifiedSequence("public", 's"%', "9223372036854775807", True),),
    NotFollowed((TableId("public", "log"),), (TableId("public", "once"),), (TableId("public", "u"),)),
    (CertifiedSkip(Lsn(0x180), "742", AT, "me@host", "known"),),
    (CertifiedConstraint("public", "t", "t_fkey"),),
    (CertifiedWrite("public", "t", "loader (role app)", AT),),
    (Comparison(AT, 2, "10", "0"),),
    (CertifiedWarning(AT, "look"),),
    warnings_complete=False,
)


def stored(certificate: Certificate = CERTIFICATE) -> StoredCertificate:
    """As it is issued."""
    text = canonical(to_json(certificate))
    return StoredCertificate(certificate.operation.id, text, digest(text))
