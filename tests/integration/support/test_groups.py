"""Tests of one xdist_group stay on one worker."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.xdist_group("a_group")


def test_the_id_names_the_group_if_tests_are_distributed_by_groups(request: pytest.FixtureRequest) -> None:
    distributed = request.config.getoption("loadgroup", default=False)
    assert request.node.nodeid.endswith("@a_group") == distributed
