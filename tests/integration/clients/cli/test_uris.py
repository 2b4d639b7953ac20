"""How pgmig-cli is given connection strings: no password on a command line, in an error or a log."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from services.shared.model import ExitCode
from tests.support.environment import clean_environment
from tests.support.migrations.cli import STOP_TIMEOUT_S, program

SECRET = "Xq7secretZ"
NOBODY = "127.0.0.1:1"


def cli(
    tmp_path: Path, *arguments: str, stdin: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*program(), *arguments],
        env=clean_environment(PGMIG_STATE_DIR=str(tmp_path / "state"), **environment),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=STOP_TIMEOUT_S,
        check=False,
    )


def shown(done: subprocess.CompletedProcess[str], tmp_path: Path) -> str:
    """All that a run left to be read: its output, logs and state."""
    kept = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    return done.stdout + done.stderr + "".join(path.read_text(errors="replace") for path in kept)


@pytest.mark.parametrize(
    "uri",
    [
        f"postgresql://u:se%zz{SECRET}@{NOBODY}/db",
        f"u:{SECRET}@{NOBODY}/db",
        f"postgresql://u:12/34{SECRET}@{NOBODY}/db",
        f"postgresql://u:p@{SECRET}@{NOBODY}/db",
        f"postgresql://u:{SECRET}/db",
        f"host=127.0.0.1 password=a {SECRET}",
        f"postgresql://u:ok@{NOBODY}/db?sslkeylogfile={SECRET}",
    ],
)
def test_a_connection_string_that_is_refused_is_not_shown(uri: str, tmp_path: Path) -> None:
    done = cli(tmp_path, "clone", PGMIG_SOURCE_URI=uri, PGMIG_DEST_URI=uri)
    assert done.returncode == ExitCode.USAGE, done.stderr
    assert done.stderr.startswith("error: the source's connection string "), done.stderr
    assert SECRET not in shown(done, tmp_path)


def test_a_password_on_the_command_line_is_warned_about(tmp_path: Path) -> None:
    uri = f"postgresql://u:{SECRET}@{NOBODY}/db"
    done = cli(tmp_path, "clone", "--source-uri", uri, "--dest-uri", "postgresql://u@h/db?sslmode=%zz")
    assert done.stderr.startswith("warning: every user of this machine can read the password of --source-uri")
    assert "--source-uri-file" in done.stderr
    assert done.stderr.count("warning: ") == 1
    assert SECRET not in shown(done, tmp_path)


@pytest.mark.parametrize("form", ["files", "stdin"])
def test_connection_strings_come_from_files(form: str, tmp_path: Path) -> None:
    """The source's leads nowhere, which the error tells; a file wins over the environment."""
    uris = [f"postgresql://u:{SECRET}@{NOBODY}/{name}" for name in ("from_file", "to_file")]
    names = ["-", "-"]
    if form == "files":
        names = [str(tmp_path / name) for name in ("source", "dest")]
        for name, uri in zip(names, uris, strict=True):
            Path(name).write_text(f"{uri}\n")
    done = cli(
        tmp_path,
        *("clone", "--source-uri-file", names[0], "--dest-uri-file", names[1]),
        stdin="\n".join(uris),
        PGMIG_SOURCE_URI=f"postgresql://u@{NOBODY}/of_environment",
    )
    assert done.returncode == ExitCode.UNREACHABLE, done.stderr
    assert "from_file" in done.stderr
    assert "warning: every user" not in done.stderr
    assert SECRET not in shown(done, tmp_path)


def test_an_option_and_its_file_exclude_each_other(tmp_path: Path) -> None:
    file = tmp_path / "source"
    file.write_text(f"postgresql://u:{SECRET}@{NOBODY}/db")
    done = cli(
        tmp_path, "resume", "--source-uri", f"postgresql://u@{NOBODY}/db", "--source-uri-file", str(file)
    )
    assert done.returncode == ExitCode.USAGE
    assert "exclude each other" in done.stderr
    assert SECRET not in done.stderr


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    done = cli(tmp_path, "clone", "--source-uri-file", "-", "--dest-uri", "postgresql://u@h/db")
    assert done.returncode == ExitCode.USAGE
    assert "does not begin with a connection string" in done.stderr
