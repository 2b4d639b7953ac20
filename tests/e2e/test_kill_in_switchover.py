"""kill -9 of the coordinator in each step of a switchover, while an application writes.

The next coordinator finishes a switchover that was decided, and undoes any other, so that the application can
write to the source again. PGMIG_SWITCHOVER_KILLS=10 plays that with ten migrations, each with other pauses.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from services.shared.model import Phase, StepName, StepState
from tests.e2e.live import SWITCHOVER_S, Live
from tests.e2e.stack import COORDINATOR, WORKERS, Stack
from tests.e2e.verdict import checks, problems
from tests.support.data.workload import Writer
from tests.support.servers.nats import NatsServer

MIGRATIONS = int(os.environ.get("PGMIG_SWITCHOVER_KILLS", "1"))
STEPS = (
    StepName.FREEZE,
    StepName.SENTINEL,
    StepName.DRAIN,
    StepName.CLOSE,
    StepName.SEQUENCES,
    StepName.VERIFY,
    StepName.COMMIT,
)
UNHELD = (StepName.SENTINEL, StepName.CLOSE, StepName.COMMIT)
"""Steps that nothing delays, so the kill may come after them."""

LONGEST_PAUSE_S = 0.05
RECONNECT_S = 60.0


@contextmanager
def locked(uri: str, table: str, *, exclusive: bool) -> Iterator[None]:
    """A session that holds a lock, in a transaction that has changed nothing."""
    mode: LiteralString = "ACCESS" if exclusive else "ROW"
    statement: LiteralString = "LOCK TABLE {} IN " + mode + " EXCLUSIVE MODE"
    with psycopg.connect(uri) as conn:
        conn.execute(sql.SQL(statement).format(sql.Identifier(*table.split("."))))
        yield


class Attack:
    """One switchover, and the coordinator's end in one of its steps."""

    def __init__(self, stack: Stack, live: Live, step: StepName, pause_s: float) -> None:
        self._stack, self._live = stack, live
        self._step, self._pause_s = step, pause_s

    async def run(self) -> None:
        with ExitStack() as held:
            if self._step is StepName.FREEZE:
                held.enter_context(locked(self._live.source, "shop.accounts", exclusive=False))
            if self._step is StepName.DRAIN:
                self._stack.freeze("applier")
                held.callback(self._stack.thaw, "applier")
            async for step in self._live.session.switchover(self._live.migration_id, SWITCHOVER_S):
                if step.state is not StepState.STARTED:
                    continue
                if step.name is StepName.FREEZE:
                    self._hold_later_step(held)
                if step.name is self._step:
                    break
            else:
                raise AssertionError(f"the switchover has no step {self._step}")
            await asyncio.sleep(self._pause_s)
            self._stack.kill9(COORDINATOR)

    def _hold_later_step(self, held: ExitStack) -> None:
        """The step waits for a table of pgmig's own, which no earlier step uses."""
        table = {StepName.SEQUENCES: "sequences", StepName.VERIFY: "source_table"}.get(self._step)
        if table is not None:
            held.enter_context(locked(self._live.dest, f"pgmig.{table}", exclusive=True))


async def outcome(live: Live) -> Phase:
    """Streaming, or switched over, after the coordinator was started again."""
    view = await live.until(lambda view: view.phase in {Phase.STREAMING, Phase.SWITCHED_OVER})
    return view.phase


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(MIGRATIONS))
async def test_the_next_coordinator_finishes_or_undoes(
    seed: int, shop: str, dest_db: str, nats_server: NatsServer, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    uris = {"PGMIG_SOURCE_URI": shop, "PGMIG_DEST_URI": dest_db}
    with (
        Stack(nats_server, tmp_path, workers=WORKERS[:3], settings=uris) as stack,
        Writer(shop, connections=3, rate=75, reconnect_for=RECONNECT_S) as writer,
    ):
        async with stack.session() as session:
            live = Live(session, "attacked", shop, dest_db)
            await live.start()
            await live.until_phase(Phase.STREAMING)
            for step in STEPS:
                writer.wait_for_commits(20)
                pause_s = chance.uniform(0, LONGEST_PAUSE_S) if seed else 0.0
                await Attack(stack, live, step, pause_s).run()
                stack.start(COORDINATOR)
                reached = await outcome(live)
                assert reached is Phase.STREAMING or step in UNHELD, f"decided in spite of a kill in {step}"
                if reached is Phase.SWITCHED_OVER:
                    break
            else:
                writer.wait_for_commits(20)
                await live.switch_over()
            report = writer.stop()
            await live.until_phase(Phase.SWITCHED_OVER)
            found = problems(checks(shop, dest_db, report))
            assert not found, "\n".join(found)
