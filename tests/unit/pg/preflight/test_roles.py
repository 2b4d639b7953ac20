"""Roles that definitions name: which are lacking, and which option does without them."""

from __future__ import annotations

from services.shared.model import ErrorKind
from services.shared.pg.preflight.roles import LackingRoles, lacking, refusal

NAMED = [
    ("app", "owner"),
    ("app", "grantor"),
    ("me", "owner"),
    ("reader", "grantee"),
    ("guard", "definition"),
]


def told(
    existing: set[str], usable: set[str], *, no_owner: bool = False, no_acl: bool = False
) -> LackingRoles:
    return lacking(NAMED, existing, usable, no_owner=no_owner, no_acl=no_acl)


def test_an_option_does_without_the_roles_of_its_own_kind_alone() -> None:
    me = {"me"}
    every = told(me, me)
    assert every.owner == {"app"}
    assert every.acl == {"app", "reader"}
    assert every.definition == {"guard"}
    assert told(me, me, no_owner=True).owner == frozenset()
    assert told(me, me, no_owner=True).acl == {"app", "reader"}
    assert told(me, me, no_owner=True, no_acl=True) == LackingRoles(definition=frozenset({"guard"}))


def test_a_role_that_is_there_must_be_one_that_may_be_made_an_owner() -> None:
    there = {"app", "me", "reader", "guard"}
    found = told(there, {"me"})
    assert found == LackingRoles(foreign=frozenset({"app"}))
    error = refusal(found, "me")
    assert error is not None
    assert error.kind is ErrorKind.PERMISSION
    assert "app" in error.message
    assert told(there, {"me"}, no_owner=True, no_acl=True) == LackingRoles()
    assert refusal(LackingRoles(), "me") is None


def test_no_option_is_offered_that_would_not_do() -> None:
    error = refusal(told({"me"}, {"me"}), "me")
    assert error is not None
    assert "--no" not in error.hint
    assert "guard" in error.hint
