"""The JSON form of a view: equal after a round trip, and ValueError for anything malformed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared.model import Lsn, MigrationView, Phase, SwitchoverStep, TableState
from services.shared.model.view.jsonview import from_json, to_json, view_from_json, view_to_json

st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
st.register_type_strategy(Lsn, st.integers(0, 2**64 - 1).map(Lsn))

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.from_type(MigrationView))
def test_view_is_equal_after_a_round_trip_through_json_text(view: MigrationView) -> None:
    assert view_from_json(json.loads(json.dumps(view_to_json(view)))) == view


@given(st.from_type(SwitchoverStep))
def test_switchover_step_is_equal_after_a_round_trip(step: SwitchoverStep) -> None:
    assert from_json(SwitchoverStep, json.loads(json.dumps(to_json(step)))) == step


@given(_JSON)
def test_arbitrary_json_is_a_view_or_a_value_error(obj: object) -> None:
    try:
        view_from_json(obj)
    except ValueError:
        return
    assert isinstance(obj, dict)


@given(st.from_type(MigrationView), st.data())
def test_a_replaced_field_is_read_or_a_value_error(view: MigrationView, data: st.DataObject) -> None:
    obj: dict[str, Any] = view_to_json(view)
    obj[data.draw(st.sampled_from(sorted(obj)))] = data.draw(_JSON)
    try:
        view_from_json(obj)
    except ValueError as exc:
        assert str(exc).startswith("view.")


def test_forms_of_lsn_enum_and_optional() -> None:
    view = MigrationView("m", Phase.SWITCHED_OVER, resume_phase=None)
    obj: dict[str, Any] = view_to_json(view)
    assert obj["phase"] == "switched-over"
    assert obj["resume_phase"] is None
    assert obj["positions"]["applied_lsn"] == "0/0"


def test_missing_optional_keys_take_defaults_and_unknown_keys_are_ignored() -> None:
    view = view_from_json({"migration_id": "m", "phase": "copy", "from_a_later_release": [1]})
    assert view == MigrationView("m", Phase.COPY)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"phase": "copying"}, "view.phase"),
        ({"revision": True}, "view.revision"),
        ({"revision": 1.5}, "view.revision"),
        ({"created_at": float("nan")}, "view.created_at"),
        ({"created_at": 10**400}, "view.created_at"),
        ({"positions": {"applied_lsn": "G/0"}}, "view.positions.applied_lsn"),
        ({"tables": {}}, "view.tables"),
        ({"tables": [{"table": {"schema": "s"}, "state": "copied"}]}, "view.tables[0].table"),
        ({"tables": [{"table": {"schema": "s", "name": "t"}, "state": 3}]}, "view.tables[0].state"),
        ({"needs_credentials": "no"}, "view.needs_credentials"),
    ],
)
def test_malformed_value_names_its_place(change: dict[str, object], place: str) -> None:
    with pytest.raises(ValueError, match="^" + place.replace("[", r"\[")):
        view_from_json({"migration_id": "m", "phase": "copy", **change})


def test_table_state_keeps_its_value() -> None:
    assert to_json(TableState.COPYING) == "copying"
