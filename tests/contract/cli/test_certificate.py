"""`certificate`: shown, kept by `cleanup`, signed with the operator's key, and verified."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from services.shared.model import Operation, OperationState, Phase
from services.shared.model.view.certificate import StoredCertificate
from services.shared.model.view.jsonview import to_json
from services.shared.runtime.files import replace_file
from tests.fakes.thread import ServedControl
from tests.support.certificates import CERTIFICATE, stored
from tests.support.clients.commands import at, document, pgmig, put

KEY = Ed25519PrivateKey.generate()
PASSPHRASE = "PGMIG_CERTIFICATE_KEY_PASSPHRASE"


def pem(
    key: Ed25519PrivateKey,
    encryption: KeySerializationEncryption | None = None,
    form: PrivateFormat = PrivateFormat.PKCS8,
) -> str:
    return key.private_bytes(Encoding.PEM, form, encryption or NoEncryption()).decode()


def written(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def certified(served: ServedControl) -> None:
    """Migration m1 has been switched over."""
    put(served, "m1", Phase.SWITCHED_OVER)
    served.control.certificates = (stored(),)
    operation = Operation("8f3a", "m1", "r", state=OperationState.SUCCEEDED, started_at=1.0)
    served.do(lambda: served.control.operations.update({"8f3a": operation}))


def state_file(state_dir: Path, certificate: StoredCertificate) -> None:
    record = {"certificates": [to_json(certificate)]}
    replace_file(state_dir / "m1" / "state.json", json.dumps({"view": {}, "record": record}))


@pytest.fixture
def key(tmp_path: Path) -> str:
    return written(tmp_path / "key.pem", pem(KEY))


@pytest.fixture
def public(tmp_path: Path) -> str:
    text = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return written(tmp_path / "public.pem", text, 0o644)


def refused(result: Result, code: int, why: str) -> None:
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    assert why in result.stderr


def test_certificate_is_shown_as_a_page_and_as_its_document(served: ServedControl) -> None:
    certified(served)
    shown = at(served, "certificate", "--id", "m1")
    assert shown.exit_code == 0, shown.stderr
    assert stored().sha256 in shown.stdout
    found = document(at(served, "certificate", "--id", "m1", "--operation", "8f3a", "-o", "json"))
    assert found == {"certificate": json.loads(stored().document), "sha256": stored().sha256}
    refused(at(served, "certificate", "--id", "m1", "--operation", "other"), 7, "no such certificate")


def test_certificate_is_shown_without_a_coordinator(state_dir: Path) -> None:
    state_file(state_dir, stored())
    assert document(pgmig("certificate", "-o", "json"))["sha256"] == stored().sha256
    refused(pgmig("certificate", "--operation", "other"), 7, "no such certificate")
    state_file(state_dir, replace(stored(), sha256=""))
    refused(pgmig("certificate"), 8, "not issued yet")
    state_file(state_dir, replace(stored(), document=stored().document.replace("old.example", "new.example")))
    refused(pgmig("certificate"), 3, "altered after it was issued")
    replace_file(state_dir / "m1" / "state.json", '{"view": {}, "record": {"certificates": [{"a": 1}]}}')
    refused(pgmig("certificate"), 5, "cannot be read")


def test_cleanup_keeps_the_certificate(served: ServedControl, state_dir: Path) -> None:
    certified(served)
    done = at(served, "cleanup", "--id", "m1")
    kept = state_dir / "kept-certificates" / "m1-8f3a.json"
    assert done.exit_code == 0, done.stderr
    assert str(kept) in done.stderr
    assert kept.stat().st_mode & 0o777 == 0o600
    assert pgmig("certificate", "--verify", str(kept)).exit_code == 0
    assert document(pgmig("certificate", "--id", "m1", "-o", "json"))["sha256"] == stored().sha256
    assert document(pgmig("certificate", "-o", "json"))["sha256"] == stored().sha256
    assert pgmig("certificate", "--id", "m2").exit_code == 7
    other = replace(CERTIFICATE, migration=replace(CERTIFICATE.migration, id="m2"))
    issued = {"certificate": to_json(other), "sha256": stored(other).sha256}
    written(kept.with_name("m2-8f3a.json"), json.dumps(issued))
    refused(pgmig("certificate"), 2, "several migrations")


def test_cleanup_that_cannot_keep_the_certificate_removes_nothing(
    served: ServedControl, state_dir: Path
) -> None:
    certified(served)
    state_dir.mkdir(exist_ok=True)
    written(state_dir / "kept-certificates", "in the way")
    refused(at(served, "cleanup", "--id", "m1"), 2, "cannot be kept")
    assert "cleanup" not in [call[0] for call in served.control.calls]
    forced = at(served, "cleanup", "--id", "m1", "--force")
    assert forced.exit_code == 0
    assert "is not kept" in forced.stderr


def test_signed_certificate_is_verified_with_the_public_key(
    served: ServedControl, key: str, public: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certified(served)
    unsigned = written(tmp_path / "u.json", at(served, "certificate", "--id", "m1", "-o", "json").stdout)
    printed = at(served, "certificate", "--id", "m1", "--sign", key)
    signed = written(tmp_path / "s.json", printed.stdout)
    assert json.loads(printed.stdout)["signature"]["algorithm"] == "Ed25519"
    shown = pgmig("certificate", "--verify", signed)
    assert (shown.exit_code, "is not proven" in shown.stdout) == (0, True)
    shown = pgmig("certificate", "--verify", unsigned)
    assert (shown.exit_code, "not signed" in shown.stdout) == (0, True)
    proven = document(pgmig("certificate", "--verify", signed, "--public-key", public, "-o", "json"))
    assert proven["signer_proven"]
    assert proven["signed_by"] == json.loads(printed.stdout)["signature"]["key_sha256"]
    refused(pgmig("certificate", "--verify", unsigned, "--public-key", public), 3, "not signed")
    altered = written(tmp_path / "a.json", printed.stdout.replace("old.example", "new.example"))
    refused(pgmig("certificate", "--verify", altered), 3, "altered after it was issued")
    encrypted = written(tmp_path / "e.pem", pem(KEY, BestAvailableEncryption(b"sesame")))
    refused(at(served, "certificate", "--id", "m1", "--sign", encrypted), 2, "passphrase")
    monkeypatch.setenv(PASSPHRASE, "wrong")
    refused(at(served, "certificate", "--id", "m1", "--sign", encrypted), 2, "passphrase is wrong")
    monkeypatch.setenv(PASSPHRASE, "sesame")
    again = at(served, "certificate", "--id", "m1", "--sign", encrypted)
    assert again.stdout == printed.stdout


def test_key_that_cannot_be_used_is_refused(
    served: ServedControl, public: str, key: str, tmp_path: Path
) -> None:
    certified(served)
    curve = generate_private_key(SECP256R1())
    other = curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for text, mode, why in (
        (other, 0o600, "not Ed25519"),
        (pem(KEY, form=PrivateFormat.OpenSSH), 0o600, "PKCS #8"),
        ("", 0o600, "PKCS #8"),
        (pem(KEY).replace("M", "N"), 0o600, "damaged"),
        (pem(KEY), 0o640, "other users may read it"),
    ):
        path = written(tmp_path / "other.pem", text, mode)
        refused(at(served, "certificate", "--id", "m1", "--sign", path), 2, why)
    refused(at(served, "certificate", "--id", "m1", "--sign", str(tmp_path / "none")), 2, "No such file")
    file = written(tmp_path / "c.json", at(served, "certificate", "--id", "m1", "--sign", key).stdout)
    refused(pgmig("certificate", "--verify", file, "--public-key", key), 2, "not PEM")
    refused(pgmig("certificate", "--verify", str(tmp_path / "none.json")), 2, "No such file")
    refused(pgmig("certificate", "--verify", file, "--sign", key), 2, "excludes")
    refused(pgmig("certificate", "--public-key", public), 2, "needs --verify")
