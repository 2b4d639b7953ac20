"""Settings from the environment, and files that are replaced in one step."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from services.shared.model import ErrorKind, PgmigError
from services.shared.runtime.config import ServiceSettings, load_settings, worker_token
from services.shared.runtime.files import replace_file


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PGMIG_")]:
        monkeypatch.delenv(name)


def test_the_defaults_fit_one_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    settings = load_settings("decoder", ServiceSettings)
    assert settings.coordinator == settings.listen == "127.0.0.1:7432"
    assert settings.state_dir == tmp_path / "pgmig"
    assert settings.source_uri is None


def test_variables_override_the_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PGMIG_COORDINATOR", "[::1]:7")
    monkeypatch.setenv("PGMIG_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("PGMIG_NATS_URL", "nats://tok@h:4222")
    settings = load_settings("decoder", ServiceSettings)
    assert settings.coordinator == "[::1]:7"
    assert settings.state_dir == tmp_path
    assert settings.nats_url.get_secret_value() == "nats://tok@h:4222"


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGMIG_SOURCE_URI", "")
    monkeypatch.setenv("PGMIG_LISTEN", "")
    settings = load_settings("decoder", ServiceSettings)
    assert settings.source_uri is None
    assert settings.listen == "127.0.0.1:7432"


def test_secrets_do_not_show_in_the_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGMIG_SOURCE_URI", "postgresql://u:hunter2@h/d")
    monkeypatch.setenv("PGMIG_NATS_URL", "nats://hunter2@h")
    assert "hunter2" not in repr(load_settings("decoder", ServiceSettings))


def test_the_workers_secret_comes_from_a_variable_or_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert worker_token(load_settings("copier", ServiceSettings)) == ""
    monkeypatch.setenv("PGMIG_WORKER_TOKEN", "hush")
    settings = load_settings("copier", ServiceSettings)
    assert worker_token(settings) == "hush"
    assert "hush" not in repr(settings)
    file = tmp_path / "token"
    file.write_text("from the file\n")
    monkeypatch.setenv("PGMIG_WORKER_TOKEN_FILE", str(file))
    assert worker_token(load_settings("copier", ServiceSettings)) == "from the file"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff\xfe"])
def test_an_unusable_file_for_the_workers_secret_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("PGMIG_WORKER_TOKEN_FILE", str(file))
    with pytest.raises(PgmigError) as caught:
        worker_token(load_settings("copier", ServiceSettings))
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT
    assert str(file) in caught.value.message


def test_worker_ids_name_the_role_and_differ() -> None:
    first, second = (load_settings("copier", ServiceSettings).worker_id for _ in range(2))
    assert first.startswith("copier-")
    assert first != second


def test_a_given_worker_id_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGMIG_WORKER_ID", "copier-7")
    assert load_settings("copier", ServiceSettings).worker_id == "copier-7"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PGMIG_COORDINATOR", "somewhere"),
        ("PGMIG_LISTEN", "host:99999"),
        ("PGMIG_LISTEN", ":1"),
        ("PGMIG_HEALTH_LISTEN", "1"),
        ("PGMIG_LOG_FORMAT", "xml"),
        ("PGMIG_LOG_LEVEL", "loud"),
    ],
)
def test_an_invalid_setting_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(PgmigError) as caught:
        load_settings("decoder", ServiceSettings)
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT
    assert name in caught.value.message
    assert "\n" not in str(caught.value)


def test_a_file_is_replaced_atomically_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "port"
    replace_file(path, "one")
    replace_file(path, "two")
    assert path.read_text() == "two"
    assert [entry.name for entry in path.parent.iterdir()] == ["port"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_failed_replacement_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "port"
    replace_file(path, "one")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, "two")
    assert path.read_text() == "one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["port"]
