"""Figures as text: units change where a reader expects it, and nothing breaks the layout."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from clients.presentation import figures
from clients.tui.cells import fit
from clients.tui.panels.sparkline import sparkline
from services.shared.model import Endpoint, Lsn


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0s"),
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m 00s"),
        (3599, "59m 59s"),
        (3600, "1h 00m"),
        (86_399, "23h 59m"),
        (273_600, "3d 04h"),
    ],
)
def test_durations_show_their_two_largest_units(seconds: float, text: str) -> None:
    assert figures.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.42, "420ms"),
        (0.9999, "1.0s"),
        (1.44, "1.4s"),
        (59.9, "59.9s"),
        (60, "1m 00s"),
    ],
)
def test_short_times_are_precise(seconds: float, text: str) -> None:
    assert figures.precise(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 * 999.7, "1.0 GiB"),
        (1024**3 * 123.4, "123 GiB"),
        (1024**6 * 5000, "5000 EiB"),
    ],
)
def test_sizes_have_at_most_three_digits_before_the_largest_unit(value: float, text: str) -> None:
    assert figures.size(value) == text


def test_a_size_of_a_size_names_a_shared_unit_once() -> None:
    assert figures.size_of(25 * 1024**3, 41 * 1024**3) == "25.0 of 41.0 GiB"
    assert figures.size_of(900 * 1024**2, 41 * 1024**3) == "900 MiB of 41.0 GiB"


def test_rates() -> None:
    assert figures.size_rate(1.5 * 1024**2) == "1.5 MiB/s"
    assert figures.count_rate(123_456) == "123k/s"


def test_percent_is_below_100_before_the_end() -> None:
    assert figures.percent(0.99999) == "99.9%"
    assert figures.percent(1.0) == "100%"
    assert figures.percent(-1) == "0.0%"


@pytest.mark.parametrize(
    ("number", "text"), [(170004, "17.4"), (90624, "9.6.24"), (100010, "10.10"), (0, "")]
)
def test_server_versions(number: int, text: str) -> None:
    assert figures.version(number) == text


def test_endpoints() -> None:
    assert figures.endpoint(Endpoint("db", 5432, "shop", "me")) == "db:5432/shop"
    assert figures.endpoint(Endpoint("::1", 5432, "shop", "me")) == "[::1]:5432/shop"
    assert figures.endpoint(Endpoint("", 0, "", "")) == figures.NONE


def test_lsn_zero_is_none() -> None:
    assert figures.lsn(Lsn(0)) == figures.NONE
    assert figures.lsn(Lsn.parse("16/B374D848")) == "16/B374D848"


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert figures.printable("a\x1b[2Jb\nc") == "a·[2Jb·c"


@given(st.text(), st.integers(0, 60), st.booleans())
def test_fit_gives_exactly_the_width(text: str, width: int, right: bool) -> None:
    assert cell_len(fit(figures.printable(text), width, right=right)) == width


def test_fit_cuts_wide_characters_whole() -> None:
    assert fit("顧客住所録", 6) == "顧客… "


@given(st.floats(-1, 2), st.integers(0, 80))
def test_bars_fill_their_width(fraction: float, width: int) -> None:
    for shape in (figures.bar, figures.line_bar):
        done, left = shape(fraction, width)
        assert len(done) + len(left) == width


def test_a_sparkline_is_scaled_from_zero() -> None:
    assert sparkline([70, 69, 70], 3) == ["▇▇▇"]
    assert sparkline([0, 35, 70], 3) == ["▁▄▇"]


def test_a_sparkline_shows_the_newest_values_and_leaves_gaps() -> None:
    assert sparkline([1, 2, None, 7], 3) == ["▂ ▇"]
    assert sparkline([7], 3) == ["  ▇"]
    assert sparkline([], 3) == ["   "]


def test_a_taller_sparkline_stacks_blocks() -> None:
    assert sparkline([0, 15], 2, 2) == [" ▇", "▁█"]
