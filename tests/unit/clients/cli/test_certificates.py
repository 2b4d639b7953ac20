"""A certificate that was altered in any place is not valid, and the documented recipes find that too."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from clients.cli.certificates.document import file_of, read_file, to_document
from clients.cli.certificates.signing import signed, verify
from clients.presentation.certificate import page
from services.shared.model import ErrorKind, PgmigError
from services.shared.model.view.certificate import CertifiedSequence
from tests.support.certificates import CERTIFICATE, stored

DOCS = Path(__file__).resolve().parents[4] / "docs"
SCHEMA = json.loads((DOCS / "certificate.schema.json").read_text())
KEY, OTHER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
FILE = signed(file_of(stored()), KEY)
DOCUMENT = to_document(FILE)


def data(document: object) -> bytes:
    return json.dumps(document).encode()


def refused(content: bytes, key: Ed25519PrivateKey | None = KEY) -> str:
    with pytest.raises(PgmigError) as caught:
        verify(read_file(content), key.public_key() if key else None)
    assert caught.value.kind is ErrorKind.CERTIFICATE_INVALID
    return str(caught.value)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of every scalar."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))
    if not isinstance(value, dict | list):
        yield path


PLACES = list(places(DOCUMENT))


def altered(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else f"{value}x"


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_alteration_of_any_value_is_found(path: tuple[Any, ...]) -> None:
    document = copy.deepcopy(DOCUMENT)
    where: Any = document
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = altered(where[path[-1]])
    assert document != DOCUMENT
    refused(data(document))


def test_schema_has_every_field_of_a_certificate() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(DOCUMENT, SCHEMA)
    for _ in range(2):
        assert len(PLACES) > 80
    wrong = copy.deepcopy(DOCUMENT)
    wrong["certificate"]["source"]["timeline"] = "3"  # type: ignore[index]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)


def test_certificate_that_was_not_altered_is_valid_in_any_form() -> None:
    for text in (data(DOCUMENT), json.dumps(DOCUMENT, ensure_ascii=False, indent=7, sort_keys=True).encode()):
        found = read_file(text)
        assert found == FILE
        verify(found, KEY.public_key())
        verify(found, None)


def test_reasons_are_told_apart() -> None:
    text = data(DOCUMENT)
    body = {key: value for key, value in DOCUMENT.items() if key != "signature"}
    verify(read_file(data(body)), None)
    assert "not signed" in refused(data(body))
    assert "another key" in refused(text, OTHER)
    assert "not one JSON document" in refused(text + b"{}")
    assert "not one JSON document" in refused(b"certificate")
    assert "not UTF-8" in refused(b"\xff")
    assert "'sha256' twice" in refused(text.replace(b'"sha256"', b'"sha256": "", "sha256"', 1))
    assert "not a whole number" in refused(text.replace(b"30000", b"30000.0", 1))
    assert "altered after it was issued" in refused(text.replace(b"30000", b"30001", 1))
    assert "something else" in refused(data({**DOCUMENT, "more": 1}))
    assert "pgmig-certificate/2" in refused(text.replace(b"certificate/1", b"certificate/2"))
    forged = to_document(replace(FILE, signature=signed(FILE, OTHER).signature))
    assert "another key" in refused(data(forged))
    verify(read_file(data(forged)), None)  # the signer is not proven then
    assert FILE.signature is not None
    moved = replace(FILE.signature, value=signed(replace(FILE, canonical="{}"), KEY).signature.value)  # type: ignore[union-attr]
    assert "not made for this content" in refused(data(to_document(replace(FILE, signature=moved))), None)


def test_digest_that_was_computed_anew_does_not_help_without_the_key() -> None:
    other = file_of(stored(replace(CERTIFICATE, sequences=())))
    refused(data(to_document(replace(other, signature=FILE.signature))))


def recipe(language: str) -> str:
    """The code block of the documentation."""
    found = re.search(rf"```{language}\n(.*?)```", (DOCS / "certificate.md").read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("language", ["python", "sh"])
def test_documented_recipe_finds_an_alteration(language: str, tmp_path: Path) -> None:
    if language == "sh" and shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    for text, valid in ((json.dumps(DOCUMENT), True), (json.dumps(DOCUMENT).replace("é", "e"), True)):
        (tmp_path / "shop.json").write_text(text)
        assert ran(language, tmp_path) is valid
    (tmp_path / "shop.json").write_text(json.dumps(DOCUMENT, ensure_ascii=False).replace("é", "e"))
    assert not ran(language, tmp_path)


def ran(language: str, folder: Path) -> bool:
    command = [sys.executable, "-c"] if language == "python" else ["sh", "-c"]
    arguments = [*command, recipe(language), "shop.json"]
    return subprocess.run(arguments, cwd=folder, check=False, capture_output=True).returncode == 0


def test_page_shows_what_is_claimed_and_no_control_characters() -> None:
    hostile = CertifiedSequence("public", "\x1b[2J\nnice", "1", False)
    lines = page(replace(CERTIFICATE, sequences=(hostile,) * 30), FILE.sha256)
    text = "\n".join(lines)
    assert all(line.isprintable() for line in lines)
    for expected in (
        FILE.sha256,
        "412ms",
        "m1",
        "7401234567890123456",
        "locks-held",
        "only INSERT",
        "and 10 more",
    ):
        assert expected in text
    unmeasured = replace(CERTIFICATE.freeze, downtime_measured=False, write_downtime_ms=None)
    assert "not measured" in "\n".join(page(replace(CERTIFICATE, freeze=unmeasured), FILE.sha256))
