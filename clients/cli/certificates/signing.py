"""Signatures of certificates with an Ed25519 key of the operator. The private key never leaves this process.

The signature is over the canonical certificate itself, so `openssl pkeyutl -verify -rawin` verifies it too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

from clients.cli.certificates.document import CertificateFile, Signature, invalid
from services.shared.model import ErrorKind, PgmigError

ALGORITHM = "Ed25519"
_LONGEST_KEY = 64 << 10
_PLAIN, _ENCRYPTED = b"-----BEGIN PRIVATE KEY-----", b"-----BEGIN ENCRYPTED PRIVATE KEY-----"
_MAKE = "make one with `openssl genpkey -algorithm ed25519 -aes256 -out KEYFILE`"


def signed(file: CertificateFile, key: Ed25519PrivateKey) -> CertificateFile:
    der = _der(key.public_key())
    value = key.sign(file.canonical.encode())
    return replace(file, signature=Signature(ALGORITHM, _text(der), _digest(der), _text(value)))


def verify(file: CertificateFile, expected: Ed25519PublicKey | None) -> None:
    """Raises CERTIFICATE_INVALID if the signature does not fit the content or is not by the expected key, and
    if there is none although a key is expected."""
    if file.signature is None:
        if expected is not None:
            raise invalid("it is not signed")
        return
    key = _named(file.signature)
    if expected is not None and _der(key) != _der(expected):
        raise invalid(
            f"it is signed by another key: SHA-256 {file.signature.key_sha256}; the given one has "
            f"{_digest(_der(expected))}"
        )
    try:
        key.verify(_bytes(file.signature.value), file.canonical.encode())
    except InvalidSignature as exc:
        raise invalid("its signature was not made for this content") from exc


def _named(signature: Signature) -> Ed25519PublicKey:
    """The key that the signature names."""
    if signature.algorithm != ALGORITHM:
        raise invalid(f"its signature is not {ALGORITHM}")
    der = _bytes(signature.public_key)
    if _digest(der) != signature.key_sha256:
        raise invalid("its signature names a key and the digest of another one")
    try:
        key = load_der_public_key(der)
    except ValueError as exc:
        raise invalid("its signature names no key that can be read") from exc
    if not isinstance(key, Ed25519PublicKey):
        raise invalid(f"its signature names a key that is not {ALGORITHM}")
    return key


def read_private_key(path: Path, passphrase: Callable[[], str]) -> Ed25519PrivateKey:
    """From PEM (PKCS #8). passphrase: called if the key is encrypted. Raises INVALID_ARGUMENT."""
    data = _read(path, "private key", private=True)
    if not data.lstrip().startswith((_PLAIN, _ENCRYPTED)):
        raise _unusable(path, "private key", "it is not PEM in the form PKCS #8", _MAKE)
    encrypted = data.lstrip().startswith(_ENCRYPTED)
    try:
        key = load_pem_private_key(data, passphrase().encode() if encrypted else None)
    except (ValueError, TypeError) as exc:
        why = "the passphrase is wrong, or the file is damaged" if encrypted else "the file is damaged"
        raise _unusable(path, "private key", why) from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise _unusable(path, "private key", f"it is not {ALGORITHM}", _MAKE)
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """From PEM. Raises INVALID_ARGUMENT."""
    data = _read(path, "public key", private=False)
    hint = "write it with `openssl pkey -in KEYFILE -pubout`"
    try:
        key = load_pem_public_key(data)
    except ValueError as exc:
        raise _unusable(path, "public key", "it is not PEM", hint) from exc
    if not isinstance(key, Ed25519PublicKey):
        raise _unusable(path, "public key", f"it is not {ALGORITHM}", hint)
    return key


def _read(path: Path, what: str, *, private: bool) -> bytes:
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if private and stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
                raise _unusable(path, what, "other users may read it", f"run `chmod 600 {path}`")
            return file.read(_LONGEST_KEY)
    except OSError as exc:
        raise _unusable(path, what, exc.strerror or exc.__class__.__name__) from exc


def _unusable(path: Path, what: str, why: str, hint: str = "") -> PgmigError:
    return PgmigError(ErrorKind.INVALID_ARGUMENT, f"the {what} {path} cannot be used: {why}", hint)


def _der(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise invalid("its signature is not Base64") from exc
