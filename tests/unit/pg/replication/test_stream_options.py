"""What each version of a source is asked for when its changes are streamed."""

from __future__ import annotations

import pytest

from services.shared.pg.replication.stream_options import stream_options

VERSIONS = {major: major * 10000 + 1 for major in range(10, 19)}


@pytest.mark.parametrize("major", VERSIONS)
def test_transactions_are_not_streamed_and_are_text_from_every_version(major: int) -> None:
    options = stream_options(VERSIONS[major], ["p"])
    assert options["proto_version"] == "1"
    assert not options.keys() & {"binary", "streaming", "two_phase", "origin"}


@pytest.mark.parametrize("major", VERSIONS)
def test_messages_are_asked_for_where_they_are_known(major: int) -> None:
    """Older servers refuse an option that they do not know."""
    assert (stream_options(VERSIONS[major], ["p"]).get("messages") == "true") == (major >= 14)


def test_first_and_last_releases_beside_the_boundary() -> None:
    assert "messages" not in stream_options(130023, ["p"])
    assert "messages" in stream_options(140000, ["p"])


def test_publication_names_are_quoted_as_identifiers() -> None:
    assert stream_options(170000, ["a", 'b,"c'])["publication_names"] == '"a","b,""c"'
