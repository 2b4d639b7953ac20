"""`conflicts`: what is printed of changes that met at one row."""

from __future__ import annotations

import json

from tests.fakes.control_service import CONFLICTS
from tests.fakes.thread import ServedControl
from tests.support.clients.commands import at, put


def test_conflicts_are_listed_with_their_keys(served: ServedControl) -> None:
    put(served)
    result = at(served, "conflicts")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no conflicts\n")
    served.control.conflicts = CONFLICTS
    lines = [line.split() for line in at(served, "conflicts", "--limit", "5").stdout.splitlines()]
    assert lines[0] == ["DIRECTION", "CONFLICT", "DECISION", "COUNT"]
    assert lines[1] == ["forward", "insert_exists", "kept", str(1 << 40)]
    assert lines[2][:3] == ["RESOLVED", "DIRECTION", "TABLE"]
    assert lines[3][1:] == [
        *("reverse", "app.order", "lines", "order=7,", "line="),
        *("update_origin_differs", "applied", lines[3][-2], "-"),
    ]
    assert served.control.calls[-1] == ("list_conflicts", "m", 5)


def test_conflicts_as_json_have_every_field(served: ServedControl) -> None:
    put(served)
    served.control.conflicts = CONFLICTS
    printed = json.loads(at(served, "conflicts", "-o", "json").stdout)
    assert printed["counts"] == [
        {"direction": "forward", "kind": "insert_exists", "decision": "kept", "count": 1 << 40}
    ]
    (conflict,) = printed["conflicts"]
    assert conflict["key"] == [{"column": "order", "value": "7"}, {"column": "line", "value": ""}]
    assert conflict["lsn"] == "FFFFFFFF/FFFFFFFF"
    assert set(conflict) == {
        *("direction", "table", "kind", "decision", "key", "lsn", "remote_at", "local_at", "resolved_at")
    }


def test_limit_has_bounds(served: ServedControl) -> None:
    put(served)
    assert at(served, "conflicts", "--limit", "0").exit_code == 2
    assert at(served, "conflicts", "--limit", "1001").exit_code == 2
