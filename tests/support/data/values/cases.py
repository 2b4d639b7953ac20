"""Every column type, each with values that are difficult to copy."""

from __future__ import annotations

from collections.abc import Iterable

from tests.support.data.values.case import Case
from tests.support.data.values.made import ARRAYS, MADE, RANGES_OF_THE_DATABASE
from tests.support.data.values.numbers_and_text import NUMBERS_AND_TEXT
from tests.support.data.values.structures import STRUCTURES
from tests.support.data.values.times import TIMES

CASES = (*NUMBERS_AND_TEXT, *TIMES, *STRUCTURES, *RANGES_OF_THE_DATABASE, *ARRAYS, *MADE)


def with_names(cases: Iterable[Case]) -> list[tuple[str, Case]]:
    """Each case with a short name, which is part of its tables' names."""
    return [(f"{number:03}", case) for number, case in enumerate(cases)]
