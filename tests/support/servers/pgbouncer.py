"""A real PgBouncer in front of PostgreSQL servers: own folder, own port, loopback only.

The program is the machine's own, or comes once from Debian's packages, which are unpacked into `.servers` of
the checkout without installing them. That needs no root, only apt's lists (`apt-get update`).
"""

from __future__ import annotations

import atexit
import functools
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from psycopg import conninfo

from tests.support.servers.folders import scratch_dir
from tests.support.servers.process import free_port, run, spawn, tail, unprivileged_account

FOLDER = Path(__file__).parents[3] / ".servers" / "pgbouncer"
ADMIN, PASSWORD = "operator", "open-sesame-7"
_PACKAGES = ("pgbouncer", "libevent-2.1-7", "libc-ares2")
_FETCH_TIMEOUT_S = 120.0
_READY_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0


class UnobtainableError(Exception):
    """PgBouncer cannot be obtained here. The text says why, and what to install."""


@functools.cache
def program() -> tuple[Path, dict[str, str]]:
    """PgBouncer's path, and the environment that it needs. Raises UnobtainableError."""
    for known in (shutil.which("pgbouncer"), "/usr/sbin/pgbouncer"):
        if known and Path(known).is_file():
            return Path(known), {}
    if not FOLDER.is_dir():
        _fetch()
    why = ""
    for folder in (FOLDER.resolve(), None):  # the unprivileged user may have no access to the checkout
        path, environment = _of(folder or _copied())
        answer = run([path, "-V"], account=unprivileged_account(), env=environment)
        if answer.returncode == 0:
            return path, environment
        why = answer.stderr.strip()
    raise UnobtainableError(f"Debian's PgBouncer does not run here ({why}): install pgbouncer")


def _of(folder: Path) -> tuple[Path, dict[str, str]]:
    """The program of the unpacked packages, with its environment."""
    libraries = [str(one) for one in (folder / "usr/lib").glob("*-linux-*")]
    return folder / "usr/sbin/pgbouncer", {"LD_LIBRARY_PATH": os.pathsep.join(libraries)}


def _copied() -> Path:
    """The unpacked packages in a folder that the unprivileged user can reach, until this process ends."""
    folder = scratch_dir("pgmig-pgbouncer-", unprivileged_account())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copied = folder / "unpacked"
    shutil.copytree(FOLDER, copied, symlinks=True)
    return copied


def _fetch() -> None:
    """Unpack the packages next to the final folder, and rename it when it is complete."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise UnobtainableError("PgBouncer is not installed, and this is no Debian: install pgbouncer")
    FOLDER.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pgbouncer-", dir=FOLDER.parent) as name:
        folder = Path(name)
        folder.chmod(0o755)
        made = folder / "made"
        made.mkdir(mode=0o755)
        _run(["apt-get", "download", *_PACKAGES], folder)
        for package in folder.glob("*.deb"):
            _run(["dpkg-deb", "-x", str(package), str(made)], folder)
        made.chmod(0o755)
        try:
            made.rename(FOLDER)
        except OSError:  # another process was faster
            if not FOLDER.is_dir():
                raise


def _run(argv: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            argv, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_FETCH_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        raise UnobtainableError("fetching PgBouncer took too long: install pgbouncer") from exc
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        raise UnobtainableError(
            f"PgBouncer cannot be fetched ({'; '.join(lines)}): run apt-get update, or install pgbouncer"
        )


class PgBouncer:
    """One pooler, in transaction mode. Use as a context manager; it can be started again after kill9.

    databases: the URI of each database, by the name that clients use; "*" stands for all other names, and its
    URI names no database. settings: further ones, like
    pool_mode="session".
    """

    def __init__(self, databases: Mapping[str, str], **settings: str) -> None:
        self.port = free_port()
        self.databases = dict(databases)
        self._settings = settings
        self._account = unprivileged_account()
        self._root = scratch_dir("pgmig-pgbouncer-", self._account)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.kill9()
        shutil.rmtree(self._root, ignore_errors=True)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def config(self) -> Path:
        return self._root / "pgbouncer.ini"

    @property
    def log_path(self) -> Path:
        return self._root / "pgbouncer.log"

    def uri(self, database: str, user: str = ADMIN, password: str = PASSWORD) -> str:
        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
        return f"postgresql://{login}@127.0.0.1:{self.port}/{quote(database, safe='')}"

    @property
    def console(self) -> str:
        return self.uri("pgbouncer")

    def write_config(self) -> None:
        """With the databases as they are now. RELOAD applies it."""
        lines = ["[databases]"]
        for name, uri in self.databases.items():
            given = conninfo.conninfo_to_dict(uri)
            keys = ["host", "port", "user", "password", *(["dbname"] if name != "*" else [])]
            place = {key: str(given[key]) for key in keys}
            lines.append(f"{name} = " + " ".join(f"{key}={_quoted(text)}" for key, text in place.items()))
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "md5",
            "auth_file": str(self._root / "users.txt"),
            "admin_users": ADMIN,
            "stats_users": "onlooker",
            "pool_mode": "transaction",
            "server_login_retry": "1",
            **self._settings,
        }
        lines += ["[pgbouncer]", *(f"{name} = {value}" for name, value in settings.items())]
        self.config.write_text("\n".join(lines) + "\n")

    def leading(self, database: str, uri: str) -> str:
        """The command of a hook that leads clients of `database` to the server at `uri`."""
        before, self.databases = self.databases, {**self.databases, database: uri}
        self.write_config()
        after = self.config.rename(self._root / "after.ini")
        self.databases = before
        self.write_config()
        script = 'cp "$1" "$2" && kill -HUP "$3"'  # SIGHUP is RELOAD
        return shlex.join(["sh", "-c", script, "sh", str(after), str(self.config), str(self.pid)])

    def start(self) -> None:
        """Return when it accepts connections."""
        path, environment = program()
        (self._root / "users.txt").write_text(f'"{ADMIN}" "{PASSWORD}"\n"onlooker" "{PASSWORD}"\n')
        self.write_config()
        with self.log_path.open("ab") as log:
            self._process = spawn(
                [path, self.config], account=self._account, env=environment, cwd=self._root, log=log
            )
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)  # a starting server has no event to wait for
        raise RuntimeError(f"PgBouncer does not run:\n{tail(self.log_path)}")

    def kill9(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(signal.SIGKILL)
        process.wait(_STOP_TIMEOUT_S)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
