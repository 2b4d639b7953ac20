"""Where certificates are found: with the coordinator, in the state file, and those that `cleanup` has kept.

`cleanup` removes the migration with its certificates. So it first writes each of them to a file on the
machine where it runs: STATE_DIR/kept-certificates/ID-OPERATION.json. No migration has that name, because ids
have no hyphens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from clients.cli.certificates.document import CertificateFile, file_of, read_file, stored_in, to_document
from clients.cli.coordinator import connected, local_directory
from clients.cli.options import Invocation
from clients.diagnostics import say, warn
from services.shared.model import ErrorKind, MigrationId, OperationState, PgmigError
from services.shared.model.view.certificate import StoredCertificate, no_certificate
from services.shared.runtime.files import replace_file

if TYPE_CHECKING:
    from clients.session import Session

KEPT = "kept-certificates"


async def find(invocation: Invocation, operation_id: str) -> CertificateFile:
    """operation_id: "" for the last one. Raises NOT_FOUND, and what the coordinator raises."""
    kept = None if invocation.coordinator else _kept(invocation, operation_id)
    try:
        return file_of(await _of_migration(invocation, operation_id))
    except PgmigError as exc:
        if exc.kind is not ErrorKind.NOT_FOUND or kept is None:
            raise
    return kept


async def _of_migration(invocation: Invocation, operation_id: str) -> StoredCertificate:
    if not invocation.coordinator:
        directory = local_directory(invocation)
        if directory.running_stack() is None:
            return _chosen(directory.certificates(), operation_id, directory.migration_id)
    async with connected(invocation, "show the certificate of") as (session, migration_id):
        return await session.certificate(migration_id.value, operation_id)


def _chosen(
    known: tuple[StoredCertificate, ...], operation_id: str, migration_id: MigrationId
) -> StoredCertificate:
    """From the state file. Raises NOT_FOUND, and WRONG_PHASE if it is not issued yet."""
    found = [one for one in known if operation_id in {"", one.operation_id}]
    if not found:
        raise no_certificate(migration_id.value)
    if not found[-1].issued:
        raise PgmigError(
            ErrorKind.WRONG_PHASE,
            f"the certificate of migration {migration_id} is not issued yet: its coordinator ended before",
            f"start it with `pgmig-cli follow --id {migration_id}`, then ask again",
        )
    return found[-1]


async def keep(invocation: Invocation, session: Session, migration_id: str, *, force: bool) -> None:
    """Write the certificates of the migration to files, before it is forgotten. force: what cannot be kept is
    only reported."""
    for operation in await session.list_operations(migration_id):
        if operation.state is not OperationState.SUCCEEDED:
            continue
        try:
            _write(invocation, file_of(await session.certificate(migration_id, operation.operation_id)))
        except PgmigError as exc:
            if exc.kind is ErrorKind.NOT_FOUND:  # it was switched over by an earlier release
                continue
            if not force:
                raise
            warn(f"the certificate of operation {operation.operation_id} is not kept: {exc}")


def _write(invocation: Invocation, file: CertificateFile) -> None:
    about = file.certificate
    path = invocation.state_dir / KEPT / f"{about.migration.id}-{about.operation.id}.json"
    try:
        replace_file(path, json.dumps(to_document(file), ensure_ascii=False, indent=2) + "\n")
    except OSError as exc:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"the certificate cannot be kept in {path}: {exc.strerror}",
            "save it with `pgmig-cli certificate -o json`, then clean up with --force; or choose another "
            "--state-dir",
        ) from exc
    say(f"the certificate of the switchover is kept in {path}")


def _kept(invocation: Invocation, operation_id: str) -> CertificateFile | None:
    """The last one that `cleanup` has kept. Files that are not certificates are reported."""
    found = []
    for path in sorted((invocation.state_dir / KEPT).glob("*.json")):
        file = _readable(path)
        wanted = invocation.migration_id
        if file is None or (wanted is not None and file.certificate.migration.id != wanted.value):
            continue
        if operation_id in {"", stored_in(file).operation_id}:
            found.append(file)
    migrations = {file.certificate.migration.id for file in found}
    if len(migrations) > 1:
        raise PgmigError(
            ErrorKind.INVALID_ARGUMENT,
            f"certificates of several migrations are kept in {invocation.state_dir / KEPT}: "
            f"{', '.join(sorted(migrations))}",
            "choose one with --id",
        )
    return max(found, key=lambda file: file.certificate.freeze.decided_at, default=None)


def _readable(path: Path) -> CertificateFile | None:
    try:
        return read_file(path.read_bytes())
    except (OSError, PgmigError) as exc:
        warn(f"{path} is ignored: {exc}")
        return None
