"""The failpoints of the coordinator (services.shared.runtime.failpoints).

KIND.STEP.begin, KIND.STEP.end   around each step of an operation: `switchover.drain.begin`. KIND is that of
                                 the operation
KIND.POINT                       between the steps: see `Point`
bidirectional.POINT              where both sides are opened to writers
"""

from __future__ import annotations

from enum import StrEnum
from itertools import product

from services.shared.model import OperationKind, StepName
from services.shared.runtime import failpoints


class Point(StrEnum):
    """In the order in which an operation reaches them.

    requested  the operation is stored, and has not begun
    intended   the record has the pipeline of the opposite direction; nothing was changed for it
    prepared   slot, publication and bookkeeping of that pipeline exist, and the record says so
    recorded   the record says how to undo the freeze; nothing was changed on the servers
    locked     the tables are locked
    read-only  new sessions are read-only by default
    decided    the store has the decision; this process does not know it yet
    turned     the direction has changed, or both pipelines work, and a side is not open yet
    admitted   the side that was left accepts connections
    retired    nothing is left of the pipeline that worked before the decision
    finished   the workers have stopped, and the end of the operation is not stored yet
    issued     the store has the certificate; this process does not know it yet
    finalized  the record says that there is no way back; nothing was removed
    undoing    the undo begins
    opened     writers can write again; the record does not say so yet
    undone     the record says that the operation is undone, but not in the store
    """

    REQUESTED = "requested"
    INTENDED = "intended"
    PREPARED = "prepared"
    RECORDED = "recorded"
    LOCKED = "locked"
    READ_ONLY = "read-only"
    DECIDED = "decided"
    TURNED = "turned"
    ADMITTED = "admitted"
    RETIRED = "retired"
    FINISHED = "finished"
    ISSUED = "issued"
    FINALIZED = "finalized"
    UNDOING = "undoing"
    OPENED = "opened"
    UNDONE = "undone"


BOTH_WAYS = "bidirectional"
OF_BOTH_WAYS = (Point.INTENDED, Point.PREPARED, Point.TURNED, Point.OPENED, Point.FINALIZED)


class Edge(StrEnum):
    BEGIN = "begin"
    END = "end"


STEPS = tuple(step for step in StepName if step is not StepName.ROLLBACK)
NAMES = frozenset(
    [f"{kind}.{step}.{edge}" for kind, step, edge in product(OperationKind, STEPS, Edge)]
    + [f"{kind}.{point}" for kind, point in product(OperationKind, Point)]
    + [f"{BOTH_WAYS}.{point}" for point in OF_BOTH_WAYS]
)


async def at_point(kind: str, point: Point) -> None:
    """kind: of the operation, or BOTH_WAYS."""
    await failpoints.reached(f"{kind}.{point}")


async def at_step(kind: OperationKind, step: StepName, edge: Edge) -> None:
    await failpoints.reached(f"{kind}.{step}.{edge}")
