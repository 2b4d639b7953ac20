"""`certificate`: the written proof of a switchover, shown, signed and verified."""

from __future__ import annotations

import os
from pathlib import Path

import click

from clients.cli.certificates.document import CertificateFile, read_file, to_document
from clients.cli.certificates.places import find
from clients.cli.options import Invocation, common_options
from clients.cli.output import print_json, print_lines
from clients.cli.signals import run
from clients.diagnostics import can_ask
from clients.presentation.certificate import page
from services.shared.model import ErrorKind, PgmigError

PASSPHRASE = "PGMIG_CERTIFICATE_KEY_PASSPHRASE"  # noqa: S105 - the name of a variable
_LONGEST = 256 << 20
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@common_options
@click.option(
    "--operation",
    "operation_id",
    metavar="OPERATION",
    default="",
    help="Of this switchover, as `operations` names it. Default: the last one that succeeded.",
)
@click.option(
    "--sign",
    "key_file",
    type=_FILE,
    metavar="KEYFILE",
    help="Print it as JSON, signed with this Ed25519 private key (PEM, PKCS #8). The passphrase of an "
    f"encrypted key is asked for, or comes from {PASSPHRASE}.",
)
@click.option(
    "--verify",
    "file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="Check that the certificate in this file was not altered; - is stdin. Needs no coordinator. Exit "
    "code 3 if it is not valid.",
)
@click.option(
    "--public-key",
    "public_key",
    type=_FILE,
    metavar="FILE",
    help="With --verify: require a signature by this Ed25519 key (PEM).",
)
def certificate(
    invocation: Invocation,
    operation_id: str,
    key_file: Path | None,
    file: Path | None,
    public_key: Path | None,
) -> None:
    """Show the certificate of a switchover: what was proven before it was decided.

    With --output json, print the document, whose digest anybody can verify. It is issued once, kept with the
    migration, and shown without a running coordinator too. `cleanup` writes it to a file first.
    """
    if file is not None and (key_file or operation_id):
        raise click.UsageError("--verify excludes --sign and --operation")
    if public_key is not None and file is None:
        raise click.UsageError("--public-key needs --verify")
    if file is not None:
        _verify(invocation, file, public_key)
        return
    found = run(find(invocation, operation_id))
    if key_file is not None:
        found = _signed(found, key_file)
    if invocation.json or key_file is not None:
        print_json(to_document(found))
    else:
        print_lines(page(found.certificate, found.sha256))


def _signed(found: CertificateFile, key_file: Path) -> CertificateFile:
    from clients.cli.certificates.signing import read_private_key, signed

    return signed(found, read_private_key(key_file, lambda: _passphrase(key_file)))


def _passphrase(key_file: Path) -> str:
    given = os.environ.get(PASSPHRASE)
    if given is not None:
        return given
    if not can_ask():
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"the private key {key_file} is encrypted, and nobody can be asked for the passphrase",
            f"set {PASSPHRASE}",
        )
    asked: str = click.prompt(f"Passphrase of {key_file}", hide_input=True, err=True)
    return asked


def _verify(invocation: Invocation, path: Path, public_key: Path | None) -> None:
    """Raises CERTIFICATE_INVALID, and INVALID_ARGUMENT for a file that cannot be read."""
    from clients.cli.certificates.signing import read_public_key, verify

    key = read_public_key(public_key) if public_key is not None else None
    file = read_file(_read(path))
    verify(file, key)
    if invocation.json:
        print_json(
            {
                "valid": True,
                "sha256": file.sha256,
                "signed_by": file.signature.key_sha256 if file.signature else None,
                "signer_proven": key is not None,
            }
        )
        return
    about = file.certificate
    print_lines(
        [
            f"valid: certificate of migration {about.migration.id}, operation {about.operation.id}, "
            f"{about.freeze.decided_at}",
            f"SHA-256 {file.sha256}",
            _signer(file, proven=key is not None),
        ]
    )


def _signer(file: CertificateFile, *, proven: bool) -> str:
    if file.signature is None:
        return (
            "not signed: whoever alters it can also replace the digest; compare the digest with the one in "
            "the migration's event log"
        )
    by = f"signed by the key with SHA-256 {file.signature.key_sha256}"
    if proven:
        return f"{by}, which is the given one"
    return f"{by}; whose key that is, is not proven: give the signer's public key with --public-key"


def _read(path: Path) -> bytes:
    try:
        with click.open_file(str(path), "rb") as opened:
            data: bytes = opened.read(_LONGEST)
    except OSError as exc:
        raise PgmigError(ErrorKind.INVALID_ARGUMENT, f"{path} cannot be read: {exc.strerror}") from exc
    return data
