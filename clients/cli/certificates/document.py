"""The file that `certificate` prints and `certificate --verify` reads: a certificate with its digest.

    {"certificate": {...}, "sha256": "HEX", "signature": {...}}

White space and the order of keys in the file have no meaning. The digest and the signature are over the
canonical form of `certificate` (services.shared.model.view.canonical).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from services.shared.model import ErrorKind, PgmigError
from services.shared.model.view.canonical import canonical, digest, read_strictly
from services.shared.model.view.certificate import FORMAT, Certificate, StoredCertificate
from services.shared.model.view.jsonview import from_json, to_json

_GIVEN = frozenset({"certificate", "sha256"})
_KNOWN = _GIVEN | {"signature"}


@dataclass(frozen=True, slots=True)
class Signature:
    """public_key: SubjectPublicKeyInfo (DER) in Base64. key_sha256: the digest of those bytes, in
    hexadecimal. value: of the canonical certificate, in Base64."""

    algorithm: str
    public_key: str
    key_sha256: str
    value: str


@dataclass(frozen=True, slots=True)
class CertificateFile:
    """canonical: the canonical form of the certificate. sha256: its digest."""

    certificate: Certificate
    canonical: str
    sha256: str
    signature: Signature | None = None


def file_of(stored: StoredCertificate) -> CertificateFile:
    """Raises CERTIFICATE_INVALID if what is stored was altered."""
    return _read(read_strictly(stored.document), stored.sha256, None)


def stored_in(file: CertificateFile) -> StoredCertificate:
    return StoredCertificate(file.certificate.operation.id, file.canonical, file.sha256)


def to_document(file: CertificateFile) -> dict[str, object]:
    """For JSON."""
    document: dict[str, object] = {"certificate": read_strictly(file.canonical), "sha256": file.sha256}
    if file.signature is not None:
        document["signature"] = to_json(file.signature)
    return document


def read_file(data: bytes) -> CertificateFile:
    """Raises CERTIFICATE_INVALID unless it is one unaltered certificate. The signature is not verified."""
    try:
        document = read_strictly(data.decode("utf-8"))
    except UnicodeDecodeError as exc:
        raise invalid("it is not UTF-8") from exc
    except ValueError as exc:
        raise invalid(str(exc)) from exc
    if not isinstance(document, dict) or not _GIVEN <= document.keys() <= _KNOWN:
        raise invalid('it does not have "certificate" and "sha256", or it has something else')
    signature = document.get("signature")
    return _read(document["certificate"], document["sha256"], signature)


def _read(body: object, sha256: object, signature: object) -> CertificateFile:
    known = cast("dict[str, object]", body).get("format") if isinstance(body, dict) else None
    if known != FORMAT:
        raise invalid(f"its format is {str(known)[:60]!r}, and this release knows {FORMAT!r}")
    text = canonical(body)
    if digest(text) != sha256:
        raise invalid(
            f"its content has the SHA-256 {digest(text)}, but {str(sha256)[:64]} is written in it: it was "
            "altered after it was issued"
        )
    try:
        certificate = from_json(Certificate, body, "certificate")
        signed = None if signature is None else from_json(Signature, signature, "signature")
    except ValueError as exc:
        raise invalid(str(exc)) from exc
    return CertificateFile(certificate, text, digest(text), signed)


def invalid(why: str) -> PgmigError:
    return PgmigError(
        ErrorKind.CERTIFICATE_INVALID,
        f"the certificate is not valid: {why}",
        "get it again from the migration: `pgmig-cli certificate -o json`",
    )
