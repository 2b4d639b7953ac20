"""What the coordinator keeps of its looks at both servers."""

from __future__ import annotations

import pytest

from services.coordinator.migration.readiness import WRITERS_KEPT_S, ServersSeen, Sight
from services.coordinator.pipeline.readiness_watch import _ask
from services.shared.model import ErrorKind, PgmigError, TableId
from services.shared.model.readiness_facts import ForeignWriter, Seen
from services.shared.pg.readiness.watched_server import WatchedServer
from services.shared.pg.session.connection import Connection

T = TableId("public", "t")


def test_a_writer_is_reported_with_its_last_sight_until_some_minutes_after_it() -> None:
    seen = ServersSeen()
    seen.saw_writers([ForeignWriter("a", T, 100.0), ForeignWriter("b", T, 100.0)], 100.0)
    seen.saw_writers([ForeignWriter("a", T, 105.0)], 105.0)
    assert {(one.session, one.at) for one in seen.destination.writers} == {("a", 105.0), ("b", 100.0)}
    seen.saw_writers([], 100.0 + WRITERS_KEPT_S + 1)
    assert [one.session for one in seen.destination.writers] == ["a"]


def test_writers_are_limited_to_the_latest() -> None:
    seen = ServersSeen()
    seen.saw_writers([ForeignWriter(f"{number}", T, float(number)) for number in range(1000)], 100.0)
    sessions = {int(one.session) for one in seen.destination.writers}
    assert len(sessions) < 100
    assert min(sessions) > 900


class Server(WatchedServer):
    """Opens nothing. reused: whether a session is open from the look before."""

    def __init__(self, *, reused: bool) -> None:
        super().__init__("source")
        self.reused, self.closed = reused, 0

    @property
    def opened(self) -> bool:
        return self.reused

    async def session(self, uri: str) -> Connection:
        return None  # type: ignore[return-value]

    async def close(self) -> None:
        self.reused, self.closed = False, self.closed + 1


class Questions:
    """Fail as often as `failures` says."""

    def __init__(self, failures: int) -> None:
        self.failures, self.asked = failures, 0

    async def __call__(self, conn: Connection) -> None:
        self.asked += 1
        if self.asked <= self.failures:
            raise PgmigError(ErrorKind.UNREACHABLE, "it is gone")


@pytest.mark.parametrize(
    ("reused", "failures", "asked", "answered"),
    [(True, 0, 1, True), (True, 1, 2, True), (True, 2, 2, False), (False, 1, 1, False)],
)
async def test_a_session_that_has_ended_meanwhile_is_opened_again_once(
    reused: bool, failures: int, asked: int, answered: bool
) -> None:
    server, sight, questions = Server(reused=reused), Sight(), Questions(failures)
    assert await _ask(server, "uri", sight, questions) is answered
    assert questions.asked == asked
    assert server.closed == min(failures, asked)
    assert sight.error == ("" if answered else "it is gone")
    assert (sight.at is not None) is answered


def test_facts_keep_their_age_while_a_server_does_not_answer() -> None:
    sight = Sight()
    assert sight.seen(5.0) == Seen(None, "")
    sight.answered(10.0)
    sight.error = "it is gone"
    assert sight.seen(17.0) == Seen(7.0, "it is gone")
    sight.answered(18.0)
    assert sight.seen(18.0) == Seen(0.0, "")
