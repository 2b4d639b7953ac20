"""Objects that are dropped or renamed after the snapshot was taken and before pg_dump reads them.

pg_dump's stand-in waits in each dump under a snapshot until the test has changed the source, and then
runs the real one.
"""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.coordinator.phases.schema import MOST_SNAPSHOTS
from services.shared.model import ErrorKind, MigrationOptions
from services.shared.pg.schema.dump_tools import DumpTools, find_tools
from tests.support.migrations.changing import CLONE, COPIER, FOLLOW, Bed
from tests.support.migrations.live import eventually
from tests.support.migrations.stack import Stack
from tests.support.servers.installs import newest, oldest
from tests.support.servers.nats import NatsServer

pytestmark = pytest.mark.timeout(120)

SOURCE = (
    "CREATE SCHEMA app",
    "CREATE TABLE app.keyed (id int PRIMARY KEY, v int)",
    "CREATE TABLE app.renamed (id int PRIMARY KEY, v int)",
    "CREATE TABLE app.dropped (id int PRIMARY KEY, v int)",
    "CREATE VIEW app.seen AS SELECT id FROM app.keyed",
    "CREATE SEQUENCE app.counter",
    "CREATE FUNCTION app.five(n int) RETURNS int LANGUAGE sql AS 'SELECT 5'",
    "CREATE TABLE app.called (id int PRIMARY KEY, v int DEFAULT app.five(1))",
    *(
        f"INSERT INTO app.{table} SELECT n, n FROM generate_series(1, 100) n"
        for table in ("keyed", "renamed", "dropped", "called")
    ),
)
ALTERATIONS = {
    "key": "ALTER TABLE app.keyed DROP CONSTRAINT keyed_pkey, ADD PRIMARY KEY (id)",
    "view": "DROP VIEW app.seen",
    "table": "DROP TABLE app.dropped",
    "name": "ALTER TABLE app.renamed RENAME TO other",
    "table with changes": "DELETE FROM app.dropped WHERE id < 10; DROP TABLE app.dropped",
    "name with changes": "UPDATE app.renamed SET v = -v; ALTER TABLE app.renamed RENAME TO other",
    "sequence": "DROP SEQUENCE app.counter",
    "function": "DROP FUNCTION app.five CASCADE",
}
CHANGES = (
    "UPDATE app.keyed SET v = -v WHERE id < 50",
    "DELETE FROM app.keyed WHERE id < 10",
    "INSERT INTO app.called (id, v) VALUES (101, 1)",
)


@dataclass(frozen=True, slots=True)
class Dumps:
    """pg_dump's stand-in. At each dump under a snapshot, it notes that and waits for `go`."""

    folder: Path

    @classmethod
    def put(cls, folder: Path, real: DumpTools) -> Dumps:
        folder.mkdir()
        program = folder / "pg_dump"
        program.write_text(
            f"""#!/bin/sh
case "$*" in
*--snapshot=*)
  echo x >> {folder}/dumps
  n=$(wc -l < {folder}/dumps)
  while [ ! -e {folder}/go-$n ] && [ ! -e {folder}/open ]; do sleep 0.02; done
esac
exec {shlex.quote(str(real.pg_dump))} "$@"
"""
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return cls(folder)

    @property
    def begun(self) -> int:
        dumps = self.folder / "dumps"
        return len(dumps.read_text().split()) if dumps.exists() else 0

    def wait(self, number: int) -> None:
        eventually(lambda: self.begun >= number, f"dump {number} has begun")

    def go(self, number: int) -> None:
        (self.folder / f"go-{number}").touch()

    def let_go(self) -> None:
        """Nothing waits any more."""
        (self.folder / "open").touch()


@pytest.fixture
async def dumps(tmp_path: Path) -> Dumps:
    return Dumps.put(tmp_path / "bin", await find_tools(oldest().major, newest().major))


@pytest.fixture
def held(
    dumps: Dumps, nats_server: NatsServer, tmp_path: Path, source_db: str, dest_db: str
) -> Iterator[Bed]:
    settings = {"PGMIG_PG_BINDIR": str(dumps.folder)}
    workers = ("decoder", "applier", COPIER)
    with Stack(nats_server, tmp_path / "services", workers=workers, settings=settings) as stack:
        yield Bed(stack, source_db, dest_db)


@pytest.mark.parametrize("options", [FOLLOW, CLONE], ids=["follow", "clone"])
@pytest.mark.parametrize("altered", ALTERATIONS)
async def test_the_schema_is_dumped_under_a_new_snapshot(
    dumps: Dumps, held: Bed, altered: str, options: MigrationOptions
) -> None:
    held.app(*SOURCE)
    async with held.migration(options) as operator:
        dumps.wait(1)
        held.app(ALTERATIONS[altered], *CHANGES)
        dumps.let_go()
        await operator.to_the_end()
        assert operator.stops == []
        assert dumps.begun == 2


async def test_a_schema_that_is_altered_during_each_dump_stops_and_can_be_resumed(
    dumps: Dumps, held: Bed
) -> None:
    held.app(*SOURCE)
    async with held.migration(FOLLOW) as operator:
        name = "renamed"
        for number in range(1, MOST_SNAPSHOTS + 1):
            dumps.wait(number)
            held.app(f"ALTER TABLE app.{name} RENAME TO renamed_{number}")
            name = f"renamed_{number}"
            dumps.go(number)
        view = await operator.settled()
        assert view.failure is not None
        assert view.failure.kind == ErrorKind.SCHEMA_FAILED
        assert f"any of {MOST_SNAPSHOTS} snapshots" in view.failure.message
        assert "app.renamed" in view.failure.message
        dumps.let_go()
        await operator.resume()
        await operator.to_the_end()
