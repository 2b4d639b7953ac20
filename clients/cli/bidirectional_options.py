"""Options for a migration whose two sides are both written to."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypedDict

import click

from services.shared.model import MigrationOptions
from services.shared.model.conflicts.policy import OnConflict

Command = Callable[..., Any]


class BothSides(TypedDict):
    """These fields of MigrationOptions."""

    bidirectional: bool
    on_conflict: OnConflict
    sequence_stride: bool


def bidirectional_options(command: Command) -> Command:
    """Adds the options. Passes `both_sides`, a BothSides."""

    @wraps(command)
    def wrapper(*args: Any, bidirectional: bool, on_conflict: str, sequence_stride: bool, **rest: Any) -> Any:
        given = BothSides(
            bidirectional=bidirectional,
            on_conflict=OnConflict(on_conflict),
            sequence_stride=sequence_stride,
        )
        return command(*args, both_sides=given, **rest)

    options = [
        click.option(
            "--bidirectional",
            is_flag=True,
            help="With --follow: as soon as everything is copied, replicate in both directions, and let "
            "applications write to both sides. Ends with `finalize`.",
        ),
        click.option(
            "--on-conflict",
            type=click.Choice([choice.value for choice in OnConflict]),
            default=MigrationOptions().on_conflict.value,
            show_default=True,
            help="With --bidirectional, if both sides have changed a row: stop; let the later change win on "
            "both sides (needs track_commit_timestamp = on); or keep the local row or apply the other side's "
            "change, after which the sides may differ. See `conflicts`.",
        ),
        click.option(
            "--sequence-stride",
            is_flag=True,
            help="With --bidirectional: double the increments of sequences, so that the two sides hand out "
            "different values. `finalize` restores them.",
        ),
    ]
    decorated: Command = wrapper
    for option in reversed(options):
        decorated = option(decorated)
    return decorated
