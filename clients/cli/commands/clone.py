"""`clone` begins a migration, `follow` continues one. Both wait until it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from clients.cli.bidirectional_options import BothSides, bidirectional_options
from clients.cli.confirmation import agreed
from clients.cli.coordinator import connected, local_directory, new_id, own_stack, workers_for
from clients.cli.option_values import memory, size
from clients.cli.options import Invocation, Uris, common_options, skip_object_option, uri_options
from clients.cli.outcome import (
    follow_to_end,
    print_summary,
    resumed,
    say_how_to_continue,
    say_what_is_undone,
    stopped,
    switching,
)
from clients.cli.output import print_json
from clients.cli.progress import Progress, progress_of
from clients.cli.selection_options import selection_options
from clients.cli.signals import Interrupted, run
from clients.diagnostics import say
from clients.embedded.local_state import MigrationDir
from services.shared.model import (
    ErrorKind,
    LargeObjects,
    MigrationId,
    MigrationOptions,
    MigrationView,
    NoKeyTables,
    PgmigError,
    Phase,
    check_options,
)
from services.shared.model.view.jsonview import view_to_json

if TYPE_CHECKING:
    from clients.session import Session

_DEFAULTS = MigrationOptions()


@click.command()
@uri_options
@common_options
@click.option("--follow", is_flag=True, help="Keep applying changes until `switchover`.")
@click.option("--resume", is_flag=True, help="Continue the migration if it exists already.")
@click.option(
    "--copy-workers",
    type=click.IntRange(1, 64),
    default=_DEFAULTS.copy_workers,
    show_default=True,
    help="Tables copied at the same time by each copier.",
)
@click.option(
    "--index-workers",
    type=click.IntRange(1, 64),
    default=_DEFAULTS.index_workers,
    show_default=True,
    help="Indexes built at the same time, of tables that are complete while others still copy.",
)
@click.option(
    "--no-key-tables",
    type=click.Choice([choice.value for choice in NoKeyTables]),
    default=_DEFAULTS.no_key_tables.value,
    show_default=True,
    help="With --follow, tables without a replica identity: do not start; give them REPLICA IDENTITY FULL "
    "on the source until cleanup; copy them once; or replicate only their INSERT and TRUNCATE.",
)
@click.option(
    "--strict-boundaries",
    is_flag=True,
    help="Apply each source transaction in a transaction of its own, even when behind. Slower.",
)
@click.option(
    "--maintenance-work-mem",
    type=memory,
    metavar="SIZE",
    default=None,
    help="Memory of each index build, like 512MB; in all --index-workers times as much. "
    "Default: the destination's own setting, or, if that is more, its shared_buffers shared among them, "
    "up to 1GB.",
)
@click.option(
    "--split-tables-larger-than",
    type=size,
    metavar="SIZE",
    default="1GB",
    show_default=True,
    help="Copy tables with more data than this in several parts at the same time.",
)
@click.option(
    "--max-rate",
    type=size,
    metavar="SIZE",
    help="Limit of each copier, per second.",
)
@click.option("--no-owner", is_flag=True, help="The destination's role owns everything that is created.")
@click.option("--no-acl", is_flag=True, help="Do not restore privileges (GRANT, REVOKE).")
@click.option(
    "--large-objects",
    type=click.Choice([choice.value for choice in LargeObjects]),
    default=_DEFAULTS.large_objects.value,
    show_default=True,
    help="Large objects: copy them, and with --follow compare them again while the switchover blocks "
    "writes; copy them once; or do not copy them.",
)
@click.option(
    "--no-guard-destination",
    is_flag=True,
    help="Let others write to the destination while it is migrated. Without this, its sessions are read-only "
    "by default until the switchover or the end of the clone.",
)
@click.option(
    "--confirm-after-standby",
    is_flag=True,
    help="Confirm to the source, and count as copied, only what the destination's standbys have received: "
    "those of its synchronous_standby_names, or else all that are connected.",
)
@bidirectional_options
@selection_options
@skip_object_option
def clone(
    invocation: Invocation,
    *,
    uris: Uris,
    follow: bool,
    resume: bool,
    copy_workers: int,
    index_workers: int,
    no_key_tables: str,
    strict_boundaries: bool,
    maintenance_work_mem: int | None,
    split_tables_larger_than: int,
    max_rate: int | None,
    no_owner: bool,
    no_acl: bool,
    large_objects: str,
    no_guard_destination: bool,
    confirm_after_standby: bool,
    skip_objects: tuple[str, ...],
    taking: MigrationOptions,
    both_sides: BothSides,
    yes: bool,
) -> None:
    """Copy a database, or a part of it, and with --follow replicate its changes.

    PATTERN is a pattern of psql and pg_dump: `shop.*`, `log_20??`, `"Mixed Case"`.

    Without --coordinator everything runs on this machine, as child processes of this command. Commands
    in other terminals find them (`status`, `switchover`, `pause`).
    """
    uris.require("clone needs both databases")
    options = replace(
        taking,
        follow=follow,
        copy_workers=copy_workers,
        index_workers=index_workers,
        no_key_tables=NoKeyTables(no_key_tables),
        strict_boundaries=strict_boundaries,
        maintenance_work_mem_kb=maintenance_work_mem or 0,
        split_tables_larger_than=split_tables_larger_than,
        max_rate=max_rate or 0,
        no_owner=no_owner,
        no_acl=no_acl,
        large_objects=LargeObjects(large_objects),
        skip_objects=skip_objects,
        no_guard_destination=no_guard_destination,
        confirm_after_standby=confirm_after_standby,
        **both_sides,
    )
    check_options(options)
    migration_id = new_id(invocation)
    main = _clone(invocation, migration_id, uris, options, resume=resume, yes=yes)
    _staying(invocation, migration_id, main)


async def _clone(
    invocation: Invocation,
    migration_id: MigrationId,
    uris: Uris,
    options: MigrationOptions,
    *,
    resume: bool,
    yes: bool,
) -> MigrationView:
    _refuse_existing(invocation, migration_id, resume=resume)
    with progress_of(invocation) as progress:
        async with _coordinator(invocation, migration_id, uris, progress, follow=options.follow) as session:
            if not (resume and await _resumed(session, migration_id, uris, options.skip_objects)):
                options = await agreed(session, migration_id, uris, options, progress, yes=yes)
                await session.start(migration_id.value, uris.source, uris.destination, options)
            return await follow_to_end(session, migration_id, progress, uris)


def _refuse_existing(invocation: Invocation, migration_id: MigrationId, *, resume: bool) -> None:
    """Check this before a stack is started, because its coordinator would continue the migration."""
    if invocation.coordinator or resume:
        return
    offline = MigrationDir(invocation.state_dir, migration_id).offline_view()
    if offline is None:
        return
    instead = (
        f"remove it with `pgmig-cli cleanup --id {migration_id}`"
        if offline.view.phase.ended
        else f"continue it with `pgmig-cli follow --id {migration_id}`"
    )
    raise PgmigError(
        ErrorKind.ALREADY_EXISTS,
        f"migration {migration_id} exists already, in phase {offline.view.phase}",
        f"{instead}, or choose another --id",
    )


async def _resumed(
    session: Session, migration_id: MigrationId, uris: Uris, skip_objects: tuple[str, ...]
) -> bool:
    """Whether there was a migration to continue."""
    try:
        view = await session.get(migration_id.value)
    except PgmigError as exc:
        if exc.kind is not ErrorKind.NOT_FOUND:
            raise
        return False
    await resumed(session, view, uris, skip_objects)
    return True


@click.command()
@uri_options
@common_options
@skip_object_option
def follow(invocation: Invocation, uris: Uris, skip_objects: tuple[str, ...]) -> None:
    """Continue a migration that was interrupted, paused or failed, and wait until it ends.

    If it still runs, in another terminal or under a coordinator, this command only joins it. Connection
    strings are needed again, since no password is ever stored (libpq's password file works too).
    """
    if invocation.coordinator or local_directory(invocation).running_stack() is not None:
        final = run(_join(invocation, uris, skip_objects))
        print_summary(invocation, final)
        return
    directory = local_directory(invocation)
    if not _ended_already(invocation, directory):
        main = _continue(invocation, directory, uris, skip_objects)
        _staying(invocation, directory.migration_id, main)


def _ended_already(invocation: Invocation, directory: MigrationDir) -> bool:
    """Report a migration that has nothing left to do. Raises NOT_FOUND, MigrationStoppedError."""
    offline = directory.offline_view()
    if offline is None:
        raise PgmigError(
            ErrorKind.NOT_FOUND,
            f"migration {directory.migration_id} is not known in {directory.root}",
            "see `pgmig-cli list`; begin one with `pgmig-cli clone --follow`",
        )
    if offline.view.phase is Phase.ABORTED:
        raise stopped(offline.view)
    if not offline.view.phase.ended or switching(offline.view):
        return False
    if invocation.json:
        print_json(view_to_json(offline.view), line=True)
    print_summary(invocation, offline.view)
    return True


async def _join(invocation: Invocation, uris: Uris, skip_objects: tuple[str, ...]) -> MigrationView:
    async with connected(invocation, "follow") as (session, migration_id):
        await resumed(session, await session.get(migration_id.value), uris, skip_objects)
        with progress_of(invocation) as progress:
            return await follow_to_end(session, migration_id, progress, uris)


async def _continue(
    invocation: Invocation, directory: MigrationDir, uris: Uris, skip_objects: tuple[str, ...]
) -> MigrationView:
    with progress_of(invocation) as progress:
        workers = workers_for(directory, follow=True)
        async with own_stack(directory, uris, progress, workers) as session:
            view = await session.get(directory.migration_id.value)
            await resumed(session, view, uris, skip_objects)
            return await follow_to_end(session, directory.migration_id, progress, uris)


@asynccontextmanager
async def _coordinator(
    invocation: Invocation, migration_id: MigrationId, uris: Uris, progress: Progress, *, follow: bool
) -> AsyncIterator[Session]:
    if invocation.coordinator:
        from clients.session import Session

        async with Session(invocation.coordinator) as session:
            yield session
        return
    directory = MigrationDir(invocation.state_dir, migration_id)
    workers = workers_for(directory, follow=follow)
    async with own_stack(directory, uris, progress, workers) as session:
        yield session


def _staying(
    invocation: Invocation, migration_id: MigrationId, main: Coroutine[Any, Any, MigrationView]
) -> None:
    """Run to the end and print the outcome. If interrupted, print how to continue."""
    try:
        final = run(main)
    except (Interrupted, BrokenPipeError):
        _say_what_is_left(invocation, migration_id)
        raise
    print_summary(invocation, final)


def _say_what_is_left(invocation: Invocation, migration_id: MigrationId) -> None:
    if invocation.coordinator:
        say(f"migration {migration_id} continues without this terminal")
        return
    offline = MigrationDir(invocation.state_dir, migration_id).offline_view()
    if offline is None:
        say("stopped before the migration began")
    elif not offline.view.phase.ended:
        say_how_to_continue(migration_id, has_slot=offline.view.options.follow)
    elif switching(offline.view):
        say_what_is_undone(offline.view)
