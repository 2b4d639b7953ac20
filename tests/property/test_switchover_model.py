"""Every reachable state of the model of switchover and rollback keeps what pgmig promises."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.switchover.model import BREAKABLE, Rules, explored, story, stuck, wrong

SWITCHES = 2
"""A switchover and a rollback."""


def broken_promise(rules: Rules) -> str:
    """The first promise that some state breaks, and what happened until then; "" if none."""
    found = explored(rules, SWITCHES, lambda world: bool(wrong(world)))
    last = next(reversed(found))
    if promise := wrong(last):
        return f"{promise}: {'; '.join(story(found, last))}"
    for world in stuck(found, rules, SWITCHES):
        return f"the live side is never open again: {'; '.join(story(found, world))}"
    return ""


def test_never_two_writable_sides_and_never_none_for_good() -> None:
    found = explored(Rules(), SWITCHES)
    assert {wrong(world) for world in found} == {""}
    assert stuck(found, Rules(), SWITCHES) == []
    assert {world.writable for world in found} == {(True, False), (False, True), (False, False)}


@pytest.mark.parametrize("rule", BREAKABLE)
def test_each_rule_is_needed(rule: str) -> None:
    assert broken_promise(replace(Rules(), **{rule: False}))
