"""A migration from a Python program: start it, show its progress, switch over, clean up.

The program talks to a coordinator through `clients.session`, as pgmig-cli does. It needs a running
coordinator with its workers (`make up`, or your own deployment) and these variables:

    PGMIG_COORDINATOR    HOST:PORT of the coordinator
    PGMIG_SOURCE_URI     connection string of the source
    PGMIG_DEST_URI       connection string of the destination, an empty database

    python examples/migrate.py orders

migrates under the id `orders`. If the program is interrupted, the migration continues: run the program
again with the same id.
"""

from __future__ import annotations

import asyncio
import os
import sys

from clients.session import Session
from services.shared.model import ErrorKind, MigrationOptions, MigrationView, PgmigError, Phase

SWITCHOVER_TIMEOUT_S = 30.0
STOPPED = frozenset({Phase.PAUSED, Phase.FAILED})


async def main(migration_id: str) -> None:
    source, destination = os.environ["PGMIG_SOURCE_URI"], os.environ["PGMIG_DEST_URI"]
    async with Session(os.environ.get("PGMIG_COORDINATOR", "127.0.0.1:7432")) as session:
        await start(session, migration_id, source, destination)
        view = await watch(session, migration_id)
        if view.phase is Phase.STREAMING:
            await switch_over(session, migration_id)
        removed = await session.cleanup(migration_id, source, destination)
        print("\n".join(f"removed: {line}" for line in removed.removed))


async def start(session: Session, migration_id: str, source: str, destination: str) -> None:
    """Start the migration, unless an earlier run of this program has done so."""
    try:
        await session.start(migration_id, source, destination, MigrationOptions(follow=True))
    except PgmigError as exc:
        if exc.kind is not ErrorKind.ALREADY_EXISTS:
            raise
        print(f"{migration_id} exists already: continuing")


async def watch(session: Session, migration_id: str) -> MigrationView:
    """Print each phase until the destination keeps up with the source. Raises when the migration stops.

    `follow` also reconnects to a coordinator that restarts.
    """
    phase: Phase | None = None
    async for view in session.follow(migration_id):
        if view.phase is not phase:
            phase = view.phase
            print(f"phase: {phase}", flush=True)
        if view.phase is Phase.STREAMING or view.phase.ended:
            return view
        if view.phase in STOPPED:
            reason = f"{view.failure.message} {view.failure.hint}" if view.failure else "paused"
            raise SystemExit(f"the migration has stopped: {reason}")
    raise SystemExit("the migration was removed by somebody else")


async def switch_over(session: Session, migration_id: str) -> None:
    """Raises PgmigError when the switchover failed. It has been rolled back then, and can be repeated."""
    async for step in session.switchover(migration_id, SWITCHOVER_TIMEOUT_S):
        print(f"switchover: {step.name} {step.state}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: migrate.py ID")
    try:
        asyncio.run(main(sys.argv[1]))
    except PgmigError as error:
        raise SystemExit(f"{error}\n{error.hint}") from None
