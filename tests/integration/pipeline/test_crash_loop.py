"""Everything is killed at random moments under load, and every transaction is applied once, whole, in order.

PGMIG_CRASH_ROUNDS=50      how many times something is killed; 5 by default
PGMIG_CRASH_SEED=17        what is killed when, and what the writers do; 1 by default
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import psycopg
import pytest

from tests.support.data.marked_load import DDL, START, TABLES, TOTAL, MarkedLoad, large_transaction
from tests.support.pipeline.in_process import rows
from tests.support.pipeline.processes import PipelineProcesses
from tests.support.servers.installs import newest, oldest
from tests.support.servers.nats import NatsServer
from tests.support.servers.postgres import PostgresServer

ROUNDS = int(os.environ.get("PGMIG_CRASH_ROUNDS", "5"))
SEED = int(os.environ.get("PGMIG_CRASH_SEED") or 1)
SECONDS_A_ROUND = 20
OBSERVE_EVERY_S = 0.2

pytestmark = [pytest.mark.timeout(120 + SECONDS_A_ROUND * ROUNDS), pytest.mark.xdist_group("heavy")]


class Scene:
    """What can be killed. Each method of `VICTIMS` returns how it is brought back."""

    def __init__(
        self, source: PostgresServer, dest: PostgresServer, nats: NatsServer, pipeline: PipelineProcesses
    ) -> None:
        self.source = source
        self.dest = dest
        self.nats = nats
        self.pipeline = pipeline

    def role(self, name: str) -> Callable[[], None]:
        self.pipeline.kill(name)
        return lambda: self.pipeline.start(name)

    def broker(self, *, wipe: bool) -> Callable[[], None]:
        self.nats.kill9()
        return lambda: self.nats.restart(wipe_store=wipe)

    def server(self, server: PostgresServer) -> Callable[[], None]:
        server.kill9()
        return server.start

    def strike(self, victim: str) -> Callable[[], None]:
        match victim:
            case "decoder" | "applier":
                return self.role(victim)
            case "broker" | "broker and its store":
                return self.broker(wipe=victim != "broker")
            case "source":
                return self.server(self.source)
            case _:
                return self.server(self.dest)


# Drawn in turn from a shuffled pack, so that five rounds meet each of the first at least once.
PACK = ("decoder", "applier", "broker", "broker and its store", "applier")
MORE = ("decoder", "source", "destination")


def test_transactions_survive_crashes_once_whole_and_in_order(tmp_path: Path) -> None:
    random = Random(SEED)
    print(f"PGMIG_CRASH_SEED={SEED} PGMIG_CRASH_ROUNDS={ROUNDS}")
    with (
        PostgresServer(oldest(), fsync=False) as source,
        PostgresServer(newest(), fsync=False) as dest,
        NatsServer() as nats,
    ):
        for server in (source, dest):
            server.execute(DDL)
        with PipelineProcesses(source.uri(), dest.uri(), nats.url, TABLES, tmp_path) as pipeline:
            pipeline.start("decoder")
            pipeline.start("applier")
            source.execute(START)
            pipeline.drain("start", 60)
            with observed(dest.uri()) as seen, MarkedLoad(source.uri(), SEED) as load:
                crash(Scene(source, dest, nats, pipeline), random)
                load.stop()
                pipeline.drain("end", 120)
            assert seen == []
        prove(source.uri(), dest.uri())


def crash(scene: Scene, random: Random) -> None:
    """Kill one, often a second while the first is away or comes back, in every round."""
    pack: list[str] = []
    began = time.monotonic()
    for turn in range(ROUNDS):
        if not pack:
            pack = random.sample(PACK, len(PACK))
        victims = [pack.pop()]
        if random.random() < 0.5:
            victims += [
                victim for victim in [random.choice(PACK + MORE)] if victim.split()[0] not in victims[0]
            ]
        in_step = random.random() < 0.6
        if in_step:  # or it may strike what has hardly begun again
            scene.pipeline.drain(f"round {turn}", 60)
        large = random.random() < 0.5
        if large:
            large_transaction(scene.source.uri(), turn)
        state = f"{'in step' if in_step else 'at once'}{', amid a large transaction' if large else ''}"
        print(f"{time.monotonic() - began:6.1f} s, {state}: {' and '.join(victims)}")
        moments = [random.uniform(0, 0.4 if large else 1.2), *(random.uniform(0, 0.5) for _ in victims)]
        # The moment itself is what is random here: nothing to wait for.
        time.sleep(moments[0])
        scene.pipeline.check()
        returns = []
        for victim, moment in zip(victims, moments[1:], strict=True):
            returns.append(scene.strike(victim))
            time.sleep(moment)
        random.shuffle(returns)
        for bring_back in returns:
            bring_back()
    scene.pipeline.check()


@contextmanager
def observed(destination: str) -> Iterator[list[str]]:
    """A reader of the destination, at work beside the applier; the list gets what it must never see."""
    seen: list[str] = []
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(OBSERVE_EVERY_S):
            try:
                with psycopg.connect(destination, autocommit=True, connect_timeout=5) as conn:
                    while not stop.wait(OBSERVE_EVERY_S):
                        seen.extend(violations(conn))
            except psycopg.OperationalError:
                continue

    thread = threading.Thread(target=look, name="observer")
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def violations(conn: psycopg.Connection) -> list[str]:
    """What one snapshot shows of transactions that are there in part."""
    row = conn.execute(
        """SELECT (SELECT sum(balance) FROM accounts),
                  (SELECT count(*) FROM marks),
                  (SELECT sum(copies) FROM history)"""
    ).fetchone()
    assert row is not None
    balance, marks, copies = row
    found = [] if balance in (None, TOTAL) else [f"the sum of balances was {balance}"]
    return found + ([] if marks == (copies or 0) else [f"{marks} marks of {copies} were there"])


def prove(source: str, destination: str) -> None:
    for table in TABLES:
        query = f"SELECT r::text, count(*) FROM {table} AS r GROUP BY 1 ORDER BY 1"
        assert rows(destination, query) == rows(source, query), table
    committed = rows(source, "SELECT conn, serial, copies, tick FROM history ORDER BY conn, seq")
    applied = rows(destination, "SELECT conn, serial, copies, tick FROM history ORDER BY conn, seq")
    print(f"{len(committed)} transactions")
    assert len(committed) > 20 * ROUNDS, "hardly anything was written"
    assert applied == committed, "each connection's transactions, once and in its order"
    ticks = [tick for (tick,) in rows(destination, "SELECT tick FROM history WHERE tick > 0 ORDER BY seq")]
    assert ticks == list(range(1, len(ticks) + 1)), "across connections, in the order of commits"
    torn = rows(
        destination,
        """SELECT h.conn, h.serial, h.copies, h.xid, m.found, m.xids
             FROM history h
             LEFT JOIN (SELECT conn, serial, count(*) AS found, array_agg(DISTINCT xmin::text) AS xids
                          FROM marks GROUP BY conn, serial) m USING (conn, serial)
            WHERE (m.found, m.xids) IS DISTINCT FROM (h.copies, ARRAY[h.xid::text])""",
    )
    assert torn == [], "all of a source transaction in one transaction, each row once"
    stray = "SELECT count(*) FROM marks WHERE (conn, serial) NOT IN (SELECT conn, serial FROM history)"
    assert rows(destination, stray) == [(0,)]
