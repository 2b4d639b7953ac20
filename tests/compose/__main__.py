"""A migration through containers: seed, clone, crash, catch up, switch over, compare (make compose-test).

The command line of `clone` runs in a container of its own, the others on this machine through the
published port. Live transactions are committed throughout. Ends with 1 when anything differs;
without a Docker engine it says so and ends with 0, or with 1 when REQUIRE_ENGINE is set.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import psycopg

from tests.compose.clone import Clone
from tests.compose.project import ROOT, ComposeProject, engine_problem
from tests.support.data import schema
from tests.support.data.compare import compare_databases
from tests.support.data.workload import Writer, check_conserved_sum, check_markers
from tests.support.servers.door import reopen

MIGRATION = "compose"
ROWS = 50_000
COPIERS = 2
CRASHED = ("applier", "decoder", "coordinator")
CLI_TIMEOUT_S = 120
SLOTS = (
    "SELECT slot_name::text FROM pg_replication_slots"
    " UNION ALL SELECT pubname FROM pg_publication"
    " UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'pgmig'"
)

_began = time.monotonic()


def main() -> int:
    if problem := engine_problem():
        print(f"compose test skipped: no Docker engine ({problem})")
        return 1 if os.environ.get("REQUIRE_ENGINE") else 0
    say("building the image and starting the containers")
    with ComposeProject(f"pgmig-test-{os.getpid()}", copiers=COPIERS) as project:
        differences = migrate(project)
    for difference in differences:
        print(difference)
    say(f"compose test: {'FAILED' if differences else 'equal on both sides'}")
    return 1 if differences else 0


def migrate(project: ComposeProject) -> list[str]:
    """What differs afterwards between what was committed on the source and the destination."""
    say(f"seeding about {ROWS:,} rows")
    schema.seed(project.source_uri, ROWS)
    with Writer(project.source_uri, rate=100) as writer, Clone(project, MIGRATION) as clone:
        say("cloning while transactions are committed")
        clone.wait_until_in_step()
        for service in CRASHED:
            say(f"killing the {service} with SIGKILL")
            project.crash(service)
            writer.wait_for_commits(100)
        clone.wait_until_in_step()
        say("switching over")
        say(switch_over(project))
        report = writer.wait_until_cut_off()
        clone.wait_for_end()
    say(f"comparing; {len(report.acknowledged):,} transactions were committed meanwhile")
    differences = compare_databases(project.source_uri, project.dest_uri)
    differences += check_conserved_sum(project.dest_uri) + check_markers(project.dest_uri, report)
    cli(project, "cleanup", "--id", MIGRATION, "--yes")
    return differences + left_behind(project)


def switch_over(project: ComposeProject) -> str:
    """The write-downtime, as a sentence."""
    steps = cli(project, "switchover", "--id", MIGRATION, "--timeout", "60s", "--output", "json").splitlines()
    result = json.loads(steps[-1]).get("result") or {}
    return f"writes were blocked for {result.get('write_downtime_ms')} ms"


def cli(project: ComposeProject, *arguments: str) -> str:
    """stdout of pgmig-cli on this machine. Raises CalledProcessError unless it ends with 0."""
    done = subprocess.run(
        [sys.executable, "-m", "clients", *arguments, "--coordinator", project.coordinator],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=CLI_TIMEOUT_S,
        check=True,
    )
    return done.stdout


def left_behind(project: ComposeProject) -> list[str]:
    """What of the migration is still on the source after cleanup."""
    with psycopg.connect(reopen(project.source_uri)) as connection:
        return [f"left on the source: {name}" for (name,) in connection.execute(SLOTS)]


def say(text: str) -> None:
    print(f"{time.monotonic() - _began:6.1f} s  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
