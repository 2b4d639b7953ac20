"""Decoder and applier as processes that can be killed at any moment and started again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from services.shared.model import MigrationId, PipelineId, TableId
from tests.support.services.processes import Processes

ROOT = Path(__file__).resolve().parents[3]
PIPELINE = MigrationId("crash").forward


class PipelineProcesses:
    """One pipeline; usable as a context manager, which kills what still runs.

    folder: for jobs and logs. pipeline, slot, epoch: of one whose slot exists, and the position at which it
    starts, the system identifier and the timeline. Raises RuntimeError with the end of its log if a process
    ended by itself.
    """

    def __init__(
        self,
        source: str,
        destination: str,
        nats: str,
        tables: Sequence[TableId],
        folder: Path,
        *,
        pipeline: PipelineId = PIPELINE,
        slot: tuple[str, str, int] | None = None,
        epoch: str = "",
    ) -> None:
        self._source = source
        self._destination = destination
        self._nats = nats
        self._tables = [(table.schema, table.name) for table in tables]
        self._folder = folder
        self._processes = Processes(folder)
        self._pipeline = pipeline
        self._epoch = epoch
        self._slot = slot

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._processes.close()

    def start(self, role: str) -> None:
        """Start "decoder" or "applier". The first decoder creates the slot, so start it first."""
        if role == "decoder":
            work = self._decoder_work()
        else:
            start, _, timeline = self._ready_slot()
            work = {
                "destination_uri": self._destination,
                "start_lsn": start,
                "timeline": timeline,
                "epoch": self._epoch,
            }
        job = self._folder / f"{role}.json"
        job.write_text(
            json.dumps({"nats": self._nats, "pipeline": str(self._pipeline), "role": role, "work": work})
        )
        self._processes.spawn(role, [sys.executable, "-m", "tests.support.pipeline.worker", job], cwd=ROOT)

    def _decoder_work(self) -> dict[str, Any]:
        lsn, system_identifier, timeline = self._slot or ("0/0", "", 0)
        return {
            "source_uri": self._source,
            "follow": True,
            "may_create": self._slot is None,
            "tables": self._tables,
            "system_identifier": system_identifier,
            "timeline": timeline,
            "start_lsn": lsn,
        }

    def kill(self, role: str) -> None:
        """SIGKILL."""
        self._processes.kill9(role)

    def pid(self, role: str) -> int:
        return self._processes.pid(role)

    def drain(self, token: str, timeout_s: float) -> None:
        """Return when everything committed so far is on the destination's disk."""
        with psycopg.connect(self._source, autocommit=True) as conn:
            conn.execute("SELECT pg_logical_emit_message(true, 'pgmig', %s)", [f"{self._pipeline}:{token}"])
        self._await("applier", "sentinel", token, timeout_s)

    def _ready_slot(self) -> tuple[str, str, int]:
        if self._slot is None:
            lsn, system_identifier, timeline = self._await("decoder", "slot", None, 60)
            self._slot = (str(lsn), str(system_identifier), int(timeline))
        return self._slot

    def _await(self, role: str, kind: str, first: str | None, timeout_s: float) -> list[Any]:
        """The report of `kind`, with `first` as its first field if that is given."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.check()
            for found in self._reports(role):
                if kind in found and first in (None, found[kind][0]):
                    return list(found[kind])
            time.sleep(0.05)  # another process's log has no event to wait for
        raise RuntimeError(f"no {kind} of the {role} in {timeout_s} s:\n{self._processes.tail(role)}")

    def check(self) -> None:
        """Raise an error if a process ended by itself."""
        self._processes.check()

    def _reports(self, role: str) -> list[dict[str, Any]]:
        lines = self._processes.log(role).splitlines()
        whole = [line for line in lines if line.startswith("REPORT {") and line.endswith("}")]
        return [json.loads(line.removeprefix("REPORT ")) for line in whole]

    def log_path(self, role: str) -> Path:
        return self._processes.log_path(role)
