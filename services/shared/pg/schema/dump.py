"""Transfer of the schema: pg_dump's archive of pre-data and post-data, each restored in one transaction.

The archive's entries are read by their fields (`archive.entries`) and run over pgmig's own connection, in the
transaction that also records the step as done. So after a crash either the whole section exists or none of
it, and the step is never run twice.

Passwords are passed to the programs in the environment and in a service file (mode 0600), never in their
arguments.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
from psycopg import AsyncConnection, conninfo

from services.shared.model import BOOKKEEPING_SCHEMA, ErrorKind, PgmigError, TableId
from services.shared.pg.catalog.altered_objects import altered_since
from services.shared.pg.schema.archive.entries import ArchiveEntry, Section, read_archive
from services.shared.pg.schema.archive.restore_sql import Script, script_of
from services.shared.pg.schema.archive.selection import absent, exclusions, left_out, skipped
from services.shared.pg.schema.dump_tools import DumpTools
from services.shared.pg.selection.rules import EVERYTHING, Chosen
from services.shared.pg.session.connection import (
    LOCKS_SETTING,
    RAISE_LOCKS,
    complete_conninfo,
    connection,
    locks_are_full,
    translate,
)
from services.shared.pg.session.encoding import RAW, is_raw, set_encoding

LOCK_WAIT_MS = 60_000
"""How long pg_dump waits for a table that another session alters."""

_SERVICE = "pgmig"
_ERROR_LINES = 3


def list_of(archive: Path) -> Path:
    """The file next to an archive of which only a part is restored. It contains the dump_ids of the entries
    that are left out."""
    return archive.with_suffix(".list")


_DUMP_ATTEMPTS = 3
_NAMED = 3
_SNAPSHOT_GONE = re.compile(r'invalid snapshot identifier|(?<!\w)snapshot "[0-9A-F-]*" does not exist')

_CONNECTION_LOST = re.compile(
    r"server closed the connection unexpectedly|connection to server was lost"
    r"|terminating connection due to administrator command|connection not open"
)


async def dump_schema(
    tools: DumpTools,
    source_uri: str,
    snapshot: str | None,
    target: Path,
    chosen: Chosen = EVERYTHING,
    *,
    rows: bool = True,
) -> None:
    """Write the archive to `target` (mode 0600, replaced as a whole). snapshot=None: the present state.

    rows=False: nothing will be filled with rows, including materialized views.
    """
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    os.close(_new_file(partial))
    async with connection(source_uri, "source") as conn:
        encoding = RAW if is_raw(conn) else "UTF8"
    arguments = [
        "--format=custom",
        "--section=pre-data",
        "--section=post-data",
        f"--encoding={encoding}",
        "--no-publications",
        "--no-subscriptions",
        "--no-blobs",  # versions differ in the section that contains these: see large_objects.py
        "--no-tablespaces",
        f"--exclude-schema={BOOKKEEPING_SCHEMA}",
        f"--lock-wait-timeout={LOCK_WAIT_MS}",
        "--no-password",
        f"--file={partial}",
        *(f"--exclude-table={pattern}" for pattern in exclusions(chosen.missing)),
    ]
    try:
        async with _service(source_uri) as env:
            arguments.append(f"--dbname=service={_SERVICE}")
            if snapshot is None:
                await _dump_as_of_now(tools.pg_dump, arguments, env)
            else:
                await _dump_under(tools.pg_dump, arguments, env, source_uri, snapshot)
        list_of(target).unlink(missing_ok=True)
        if not (chosen.everything and rows and not chosen.schemas_there):
            out = left_out(await asyncio.to_thread(read_archive, partial), chosen, rows=rows)
            with os.fdopen(_new_file(list_of(target)), "w", encoding="utf-8") as file:
                json.dump(sorted(out), file)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


async def _dump_under(
    program: Path, arguments: Sequence[str], env: Mapping[str, str], uri: str, snapshot: str
) -> None:
    """Run pg_dump. It reads the catalogs under the snapshot, but it locks tables and calls functions that see
    the catalogs as they are now. So it fails if an object was dropped or renamed in between.

    Then it fails in the same way each time under this snapshot. Its messages do not show that this is the
    reason, because they differ between versions and languages. So the catalogs are compared. If nothing was
    altered, pg_dump failed for another reason, which may have passed. After some attempts its own error is
    raised.
    """
    for attempt in range(1, _DUMP_ATTEMPTS + 1):
        try:
            await _run(program, [*arguments, f"--snapshot={snapshot}"], env)
        except PgmigError as exc:
            if exc.kind is not ErrorKind.SCHEMA_FAILED:
                raise
            if altered := await altered_since(uri, snapshot):
                await _dump_as_of_now(program, arguments, env)  # fails if the reason is another one
                raise _changed(altered, exc) from exc
            if attempt == _DUMP_ATTEMPTS:
                raise
        else:
            return


def _changed(altered: Sequence[str], failure: PgmigError) -> PgmigError:
    more = f" and {len(altered) - _NAMED} more" if len(altered) > _NAMED else ""
    return PgmigError(
        ErrorKind.TABLE_CHANGED,
        "objects of the source were dropped or altered after the snapshot was taken "
        f"({', '.join(altered[:_NAMED])}{more}): {failure.message}",
        "the schema is dumped under a new snapshot",
    )


async def _dump_as_of_now(program: Path, arguments: Sequence[str], env: Mapping[str, str]) -> None:
    """Run pg_dump several times if it fails. Each attempt takes its own snapshot."""
    for _ in range(_DUMP_ATTEMPTS - 1):
        try:
            await _run(program, arguments, env)
        except PgmigError as exc:
            if exc.kind is not ErrorKind.SCHEMA_FAILED:
                raise
        else:
            return
    await _run(program, arguments, env)


def _new_file(path: Path) -> int:
    """A file descriptor of a new file with mode 0600. Fails if the file exists."""
    return os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)


async def section_script(
    archive: Path,
    section: Section,
    *,
    no_owner: bool = False,
    no_acl: bool = False,
    skip: Collection[str] = (),
    there: Collection[TableId] | None = None,
) -> Script:
    """The SQL of one section, entry by entry.

    skip: identities of objects to leave out. there: the destination's tables; entries that need another table
    are left out, because both sides have dropped it. Raises CORRUPT, TOOL_MISSING and INVALID_ARGUMENT.
    """
    entries = await asyncio.to_thread(_kept, archive, skip, there)
    return script_of(entries, section, no_owner=no_owner, no_acl=no_acl)


def _kept(archive: Path, skip: Collection[str], there: Collection[TableId] | None) -> list[ArchiveEntry]:
    entries = read_archive(archive)
    out = set(skipped(entries, skip))
    if there is not None:
        out |= absent(entries, there)
    if list_of(archive).exists():
        out.update(json.loads(list_of(archive).read_text(encoding="utf-8")))
    return [entry for entry in entries if entry.dump_id not in out]


async def check_skippable(archive: Path, names: Collection[str]) -> None:
    """Raise INVALID_ARGUMENT for names of objects that --skip-object cannot leave out."""
    await asyncio.to_thread(_check_skippable, archive, names)


def _check_skippable(archive: Path, names: Collection[str]) -> None:
    if archive.exists():
        skipped(read_archive(archive), names)


async def run_entries(conn: AsyncConnection, script: Script, section: str) -> None:
    """Same as `run_script`, one entry after the other, so that the error names the entry that fails."""
    await run_script(conn, script.settings, section)
    for entry in script.entries:
        try:
            await run_script(conn, entry.text, section)
        except PgmigError as exc:
            raise naming(exc, entry.identity) from exc


def naming(error: PgmigError, identity: str) -> PgmigError:
    """The error with its object, and how to continue without that object."""
    if error.kind is not ErrorKind.SCHEMA_FAILED or not identity:
        return error
    return PgmigError(
        error.kind,
        f"{error.message} ({identity})",
        f"{error.hint}; or leave out this object and what depends on it: continue with "
        f"--skip-object {shlex.quote(identity)}",
    )


async def run_script(conn: AsyncConnection, script: bytes, section: str) -> None:
    """Run a section, or a part of it, as one query: inside the caller's transaction or, if there is none, as
    its own transaction. Raises SCHEMA_FAILED, or an error that a retry may solve.

    It changes the session's settings, so use a separate connection.
    """
    try:
        if is_raw(conn):
            await conn.execute(set_encoding(RAW).encode())
        await conn.execute(script)
        if is_raw(conn):
            await conn.execute(set_encoding("UTF8").encode())
    except psycopg.Error as exc:
        error = translate(exc, f"restoring the {section} schema on the destination")
        if locks_are_full(exc):  # by this transaction itself
            raise PgmigError(ErrorKind.SCHEMA_FAILED, error.message, error.hint) from exc
        if error.policy.retry or error.kind is ErrorKind.PERMISSION:
            raise error from exc
        raise PgmigError(
            ErrorKind.SCHEMA_FAILED,
            f"{error.message}{_statement(exc, script)}",
            "nothing of this section was kept; remove the cause on the destination, then continue",
        ) from exc


def _statement(exc: psycopg.Error, script: bytes) -> str:
    """The first line of the failed statement, if the server reported its position."""
    position = exc.diag.statement_position
    if not position:
        return ""
    text = script.decode(errors="replace")
    start = text.rfind(";\n", 0, int(position)) + 1
    line = next((line for line in text[start:].splitlines() if line and not line.startswith("--")), "")
    return f" in: {line[:120]}" if line else ""


@asynccontextmanager
async def _service(uri: str) -> AsyncIterator[dict[str, str]]:
    """An environment in which libpq finds `uri`'s parameters as a service."""
    completed = conninfo.conninfo_to_dict(complete_conninfo(uri, "pgmig dump", "source"))
    given = {name: str(value) for name, value in completed.items()}
    password = given.pop("password", None)
    del given["target_session_attrs"]  # a pg_dump before 14 does not know the value `primary`
    ours = {"PGSERVICE", "PGSERVICEFILE", "LC_ALL", "LANGUAGE"}  # the last two would translate messages
    env = {k: v for k, v in os.environ.items() if k not in ours} | {"LC_MESSAGES": "C"}
    if password is not None:
        env["PGPASSWORD"] = password
    for key, value in given.items():
        if "\n" in value:
            raise PgmigError(ErrorKind.INVALID_ARGUMENT, f"the source URI's {key} has a line break in it")
    with tempfile.TemporaryDirectory(prefix="pgmig-") as folder:  # mode 0700
        path = Path(folder) / "service"
        path.write_text("\n".join([f"[{_SERVICE}]", *(f"{k}={v}" for k, v in given.items()), ""]))
        path.chmod(0o600)
        yield {**env, "PGSERVICEFILE": str(path)}


async def _run(program: Path, arguments: Sequence[str], env: Mapping[str, str]) -> bytes:
    """Run the program and return its standard output. Cancellation kills the program too."""
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        raise _program_error(program.name, err.decode(errors="replace"), process.returncode)
    return out


def _program_error(name: str, text: str, code: int | None) -> PgmigError:
    lines = [line.removeprefix(f"{name}: error: ") for line in text.splitlines() if line.strip()]
    message = f"{name} failed: {' '.join(lines[:_ERROR_LINES]) or f'exit code {code}'}"
    if _SNAPSHOT_GONE.search(text):
        return PgmigError(ErrorKind.SNAPSHOT_LOST, message)
    if ("connection to server" in text and "failed" in text) or _CONNECTION_LOST.search(text):
        return PgmigError(ErrorKind.UNREACHABLE, message, "check that the source runs and can be reached")
    if LOCKS_SETTING in text:
        return PgmigError(ErrorKind.SCHEMA_FAILED, message, RAISE_LOCKS)
    if "No space left on device" in text:  # on this host, where the archive is written, or on the source
        return PgmigError(ErrorKind.DISK_FULL, message, "make room there: pgmig retries until there is room")
    if "lock timeout" in text:
        return PgmigError(ErrorKind.TRANSIENT, message, "another session alters a table of the source")
    return PgmigError(ErrorKind.SCHEMA_FAILED, message, "see the message of the program")
