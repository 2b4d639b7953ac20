"""A model of switchover and rollback, small enough to visit each of its states.

Two sides, a record in the store, and coordinators that come one after the other. A coordinator can end, or
stop for any time and go on, between any two of its steps; then the next one takes the migration over. The
model knows what decides who can write, and nothing else: locks, the default of new sessions, whether a
database accepts connections, and the sessions of applications that began when they could write.

Each step of a coordinator is one change of a server or one write of the record. A step fails if its session
was terminated, or if another coordinator has taken the record over. An operation from one side to the other
is the same in both directions. After its decision the side that was left is read-only by default, and a
reverse pipeline writes there, or it is closed.

`Rules` are what the code obeys. With one of them broken, some state breaks a promise: the test checks both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

NOBODY = -1
COORDINATORS = 3


@dataclass(frozen=True, slots=True)
class Rules:
    """recorded_first: the record says that a side is frozen before it is. decided_first: a side is opened
    after the decision is stored. others_ended_first: whoever changes a side terminates the sessions of
    earlier coordinators first. claimed_first: only who has won a write of the record opens sessions.
    read_only_first: sessions are terminated when new ones are read-only. opened_again: the next coordinator
    opens what a decision has left closed."""

    recorded_first: bool = True
    decided_first: bool = True
    others_ended_first: bool = True
    claimed_first: bool = True
    read_only_first: bool = True
    opened_again: bool = True


@dataclass(frozen=True, slots=True)
class Side:
    """locked_by: the coordinator whose session holds the locks. sessions: applications have sessions that
    began when the side was open to writers."""

    locked_by: int = NOBODY
    read_only: bool = False
    closed: bool = False
    sessions: bool = False

    @property
    def writable(self) -> bool:
        return self.locked_by == NOBODY and (self.sessions or self.open)

    @property
    def open(self) -> bool:
        """To new sessions that write."""
        return not (self.read_only or self.closed)


class Phase(StrEnum):
    """settled: nobody freezes anything. freezing: the live side is frozen, or may be. opening: the other side
    is the live one, and may not be open yet."""

    SETTLED = "settled"
    FREEZING = "freezing"
    OPENING = "opening"


class At(StrEnum):
    """What a coordinator does next."""

    GONE = "gone"
    IDLE = "idle"
    RECORD = "record"
    END_OTHERS = "end-others"
    LOCK = "lock"
    READ_ONLY = "read-only"
    END_SESSIONS = "end-sessions"
    CLOSE = "close"
    DECIDE = "decide"
    CLAIM_OPENING = "claim-opening"
    END_OTHERS_OPENING = "end-others-opening"
    OPEN = "open"
    RELEASE = "release"
    SETTLE = "settle"
    CLAIM_UNDO = "claim-undo"
    END_OTHERS_UNDO = "end-others-undo"
    WRITABLE_AGAIN = "writable-again"
    CONNECTABLE_AGAIN = "connectable-again"
    UNDONE = "undone"


FORWARD = (
    At.RECORD,
    At.END_OTHERS,
    At.LOCK,
    At.READ_ONLY,
    At.END_SESSIONS,
    At.CLOSE,
    At.DECIDE,
    At.CLAIM_OPENING,
    At.END_OTHERS_OPENING,
    At.OPEN,
    At.RELEASE,
    At.SETTLE,
)
UNDO = (At.CLAIM_UNDO, At.END_OTHERS_UNDO, At.WRITABLE_AGAIN, At.CONNECTABLE_AGAIN, At.UNDONE)


@dataclass(frozen=True, slots=True)
class Coordinator:
    """live: which side was the live one when it began the operation. connected: it has sessions."""

    at: At = At.GONE
    live: int = 0
    connected: bool = False


@dataclass(frozen=True, slots=True)
class World:
    """live: which side applications use, by the record. owner: the coordinator whose writes of the record
    succeed. came: how many coordinators there have been. switched: how often a decision was stored."""

    sides: tuple[Side, Side] = (Side(sessions=True), Side(read_only=True))
    phase: Phase = Phase.SETTLED
    live: int = 0
    owner: int = NOBODY
    came: int = 0
    switched: int = 0
    coordinators: tuple[Coordinator, ...] = field(default=(Coordinator(),) * COORDINATORS)

    @property
    def writable(self) -> tuple[bool, bool]:
        return self.sides[0].writable, self.sides[1].writable

    def with_side(self, number: int, side: Side) -> World:
        sides = [*self.sides]
        sides[number] = side
        return replace(self, sides=(sides[0], sides[1]))

    def with_coordinator(self, number: int, coordinator: Coordinator) -> World:
        coordinators = [*self.coordinators]
        coordinators[number] = coordinator
        return replace(self, coordinators=tuple(coordinators))


def disconnected(world: World, number: int) -> World:
    """Without the sessions of a coordinator, and so without its locks."""
    world = world.with_coordinator(number, replace(world.coordinators[number], connected=False))
    for which, side in enumerate(world.sides):
        if side.locked_by == number:
            world = world.with_side(which, replace(side, locked_by=NOBODY))
    return world


def following(world: World, rules: Rules, switches: int) -> Iterator[tuple[str, World]]:
    """Everything that can happen next, with its name. switches: decisions that are stored at most."""
    for which, side in enumerate(world.sides):
        if side.open and not side.sessions:
            yield (
                f"an application connects to side {which}",
                world.with_side(which, replace(side, sessions=True)),
            )
    if world.came < COORDINATORS:
        yield f"coordinator {world.came} takes over", _taken_over(world, rules)
    for number, coordinator in enumerate(world.coordinators):
        if coordinator.at is At.GONE:
            continue
        if world.came < COORDINATORS:  # the last one stays, so that there is always one
            gone = disconnected(world, number).with_coordinator(number, Coordinator())
            yield f"coordinator {number} is killed", gone
        if coordinator.at is At.IDLE:
            if world.owner == number and world.phase is Phase.SETTLED and world.switched < switches:
                begun = Coordinator(_order(rules)[0], world.live, connected=True)
                yield f"coordinator {number} begins", world.with_coordinator(number, begun)
            continue
        yield f"coordinator {number}: {coordinator.at}", _stepped(world, number, rules)
        if coordinator.at in FORWARD[: FORWARD.index(At.DECIDE)] and coordinator.at is not At.RECORD:
            yield f"coordinator {number} fails", _failed(world, number)


def _taken_over(world: World, rules: Rules) -> World:
    number = world.came
    world = replace(world, came=number + 1, owner=number)
    at = At.IDLE
    if world.phase is Phase.FREEZING:
        at = At.CLAIM_UNDO
    elif world.phase is Phase.OPENING and rules.opened_again:
        at = At.CLAIM_OPENING
    live = world.live if world.phase is not Phase.OPENING else 1 - world.live
    return world.with_coordinator(number, Coordinator(at, live))


def _failed(world: World, number: int) -> World:
    """A coordinator that was replaced closes its sessions and does nothing any more. Another one undoes the
    operation, or tries again to open the side that it has decided for."""
    coordinator = world.coordinators[number]
    world = disconnected(world, number)
    if world.owner != number:
        return world.with_coordinator(number, Coordinator())
    decided = coordinator.at in FORWARD[FORWARD.index(At.CLAIM_OPENING) :]
    again = At.CLAIM_OPENING if decided else At.CLAIM_UNDO
    return world.with_coordinator(number, Coordinator(again, coordinator.live))


def _stepped(world: World, number: int, rules: Rules) -> World:
    coordinator = world.coordinators[number]
    order = UNDO if coordinator.at in UNDO else _order(rules)
    done = _done(world, number, coordinator, rules)
    if done is None:
        return _failed(world, number)
    place = order.index(coordinator.at) + 1
    now = done.coordinators[number]
    if place == len(order):
        return disconnected(done, number).with_coordinator(number, Coordinator(At.IDLE))
    return done.with_coordinator(number, replace(now, at=order[place]))


def _order(rules: Rules) -> tuple[At, ...]:
    order = [*FORWARD]
    if not rules.recorded_first:
        order.remove(At.RECORD)
        order.insert(order.index(At.DECIDE), At.RECORD)
    if not rules.decided_first:
        order.remove(At.OPEN)
        order.insert(order.index(At.DECIDE), At.OPEN)
    if not rules.read_only_first:
        order.remove(At.END_SESSIONS)
        order.insert(order.index(At.READ_ONLY), At.END_SESSIONS)
    return tuple(order)


def _done(world: World, number: int, coordinator: Coordinator, rules: Rules) -> World | None:
    """The world after this step; None if it fails."""
    live, other = coordinator.live, 1 - coordinator.live
    at = coordinator.at
    if at in {At.RECORD, At.DECIDE, At.SETTLE, At.UNDONE}:
        return _written(world, number, at, live)
    if at in {At.CLAIM_OPENING, At.CLAIM_UNDO}:
        if rules.claimed_first and world.owner != number:
            return None
        return world.with_coordinator(number, replace(coordinator, connected=True))
    if not coordinator.connected:
        return None
    if at in {At.END_OTHERS, At.END_OTHERS_OPENING, At.END_OTHERS_UNDO}:
        for earlier in range(COORDINATORS):
            if earlier != number and rules.others_ended_first:
                world = disconnected(world, earlier)
        return world
    return _changed(world, number, at, live, other)


def _written(world: World, number: int, at: At, live: int) -> World | None:
    """A write of the record by compare-and-set."""
    if world.owner != number:
        return None
    if at is At.RECORD:
        return replace(world, phase=Phase.FREEZING)
    if at is At.DECIDE:
        return replace(world, phase=Phase.OPENING, live=1 - live, switched=world.switched + 1)
    return replace(world, phase=Phase.SETTLED)


def _changed(world: World, number: int, at: At, live: int, other: int) -> World | None:
    """A change of a server. None if another session's lock is in the way."""
    side = world.sides[live]
    if at is At.OPEN:
        return world.with_side(other, replace(world.sides[other], read_only=False, closed=False))
    if at is At.LOCK and side.locked_by not in {NOBODY, number}:
        return None
    changes: dict[At, dict[str, Any]] = {
        At.LOCK: {"locked_by": number},
        At.READ_ONLY: {"read_only": True},
        At.END_SESSIONS: {"sessions": False},
        At.CLOSE: {"closed": True},
        At.RELEASE: {"locked_by": NOBODY},
        At.WRITABLE_AGAIN: {"read_only": False},
        At.CONNECTABLE_AGAIN: {"closed": False},
    }
    return world.with_side(live, replace(side, **changes[at]))


Found = dict[World, tuple[World, str] | None]
"""States, each with the one before it and what happened in between."""


def explored(rules: Rules, switches: int, wrong: Callable[[World], bool] = lambda _: False) -> Found:
    """Every reachable state. Ends early after the first one that is `wrong`, which is the last one then."""
    start = World()
    found: Found = {start: None}
    waiting = deque([start])
    while waiting:
        world = waiting.popleft()
        for event, after in following(world, rules, switches):
            if after not in found:
                found[after] = world, event
                if wrong(after):
                    return found
                waiting.append(after)
    return found


def story(found: Found, world: World) -> list[str]:
    """What has happened until this state."""
    events = []
    while (before := found[world]) is not None:
        world, event = before
        events.append(event)
    return events[::-1]


def wrong(world: World) -> str:
    """The promise that this state breaks, "" if none."""
    if all(world.writable):
        return "both sides can be written to"
    if world.switched and world.writable[1 - world.live]:
        return "the side that was left can be written to"
    idle = world.owner != NOBODY and world.coordinators[world.owner].at is At.IDLE
    if idle and world.phase is Phase.SETTLED and not world.sides[world.live].open:
        return "nothing is going on, and the live side is not open"
    return ""


def at_rest(world: World) -> bool:
    """The live side is open to everybody, and nobody is about to change that."""
    return world.phase is Phase.SETTLED and world.sides[world.live].open and world.writable[world.live]


def stuck(found: Found, rules: Rules, switches: int) -> list[World]:
    """States from which no further events lead to rest."""
    before: dict[World, list[World]] = {world: [] for world in found}
    for world in found:
        for _, after in following(world, rules, switches):
            before[after].append(world)
    able = {world for world in found if at_rest(world)}
    waiting = deque(able)
    while waiting:
        for world in before[waiting.popleft()]:
            if world not in able:
                able.add(world)
                waiting.append(world)
    return [world for world in found if world not in able]


BREAKABLE = tuple(rule.name for rule in fields(Rules))
