"""What the pipelines of migrations are named: short enough for PostgreSQL, and never alike."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.shared.model import Direction, ErrorKind, MigrationId, PgmigError, PipelineId

NAMEDATALEN = 64
LONGEST = MigrationId.parse("m" * 40)
WORDS = ("a", "_", "reverse", "insert", "inserts", "copy", "snapshot", "forward", "changes", "1")
"""What the names are made of: ids of these are the most likely to imitate another name."""

imitations = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map("".join)
ids = (
    (imitations.filter(lambda text: text[0].isalpha()) | st.from_regex(r"[a-z][a-z0-9_]*", fullmatch=True))
    .map(lambda text: text[:40])
    .map(MigrationId.parse)
)
pipelines = st.builds(PipelineId, ids, st.sampled_from(Direction))


def slots(pipeline: PipelineId) -> list[str]:
    return [pipeline.slot, pipeline.snapshot_slot]


def publications(pipeline: PipelineId) -> list[str]:
    return [pipeline.publication, pipeline.inserts_publication]


def streams(pipeline: PipelineId) -> list[str]:
    return [pipeline.change_stream, pipeline.copy_stream]


def subjects(pipeline: PipelineId) -> list[str]:
    return [
        pipeline.change_subject(1),
        pipeline.change_subject(12),
        pipeline.copy_subject,
        pipeline.flush_subject,
    ]


def shared_names(one: PipelineId, other: PipelineId) -> list[str]:
    """Of slots, publications, streams, subjects, origins or rows: names that both use."""
    kinds = (slots, publications, streams, subjects, lambda each: [each.origin], lambda each: [str(each)])
    return [name for kind in kinds for name in kind(one) if name in kind(other)]


def of(migration: str, direction: str) -> PipelineId:
    return PipelineId(MigrationId.parse(migration), Direction(direction))


@given(pipelines, pipelines)
@example(of("a", "reverse"), of("a_reverse", "forward"))
@example(of("a", "reverse"), of("reverse_a", "forward"))
@example(of("a", "forward"), of("a_inserts", "forward"))
@example(of("a", "forward"), of("a_snapshot", "forward"))
@example(of("a", "reverse"), of("insert_a", "reverse"))
@example(of("a", "forward"), of("a", "reverse"))
def test_two_pipelines_share_no_name(one: PipelineId, other: PipelineId) -> None:
    assert one == other or shared_names(one, other) == []


@given(pipelines)
@example(LONGEST.reverse)
def test_the_names_of_one_pipeline_differ_and_are_allowed(pipeline: PipelineId) -> None:
    for kind in (slots, publications, streams, subjects):
        assert all(one != other for one, other in combinations(kind(pipeline), 2))
    for name in (*slots(pipeline), *publications(pipeline), pipeline.origin):
        assert len(name) < NAMEDATALEN
        assert re.fullmatch(r"[a-z0-9_]+", name)
    for name in streams(pipeline):
        assert re.fullmatch(r"[A-Za-z0-9_]+", name)


def test_the_forward_pipeline_has_the_plain_names() -> None:
    forward = MigrationId.parse("shop").forward
    assert (forward.slot, forward.publication, forward.origin) == ("pgmig_shop",) * 3
    assert (forward.change_stream, forward.copy_stream) == ("PGMIG_CHANGES_shop", "PGMIG_COPY_shop")
    assert forward.change_subject(3) == "pgmig.shop.changes.3"
    reverse = MigrationId.parse("shop").reverse
    assert (reverse.slot, reverse.inserts_publication) == (
        "pgmig__reverse_shop",
        "pgmig__reverse__insert_shop",
    )
    assert (reverse.change_stream, reverse.copy_subject) == (
        "PGMIG_REVERSE_CHANGES_shop",
        "pgmig.shop.reverse.copy",
    )


@given(pipelines)
def test_a_pipeline_is_read_back_from_its_text(pipeline: PipelineId) -> None:
    assert PipelineId.parse(str(pipeline)) == pipeline


@pytest.mark.parametrize(
    "text", ["", "a", "a/", "/forward", "a/sideways", "a/forward/", "A/forward", "a/b/reverse"]
)
def test_what_is_no_pipeline_is_refused(text: str) -> None:
    with pytest.raises(PgmigError) as caught:
        PipelineId.parse(text)
    assert caught.value.kind is ErrorKind.INVALID_ARGUMENT
