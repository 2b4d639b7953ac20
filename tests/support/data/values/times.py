"""Dates, times and intervals."""

from __future__ import annotations

from tests.support.data.values.case import Case, strings

TIMES: tuple[Case, ...] = (
    Case(
        "date",
        strings(
            *("4713-11-24 BC", "0001-12-31 BC", "0001-01-01", "2000-02-29", "5874897-12-31"),
            *("infinity", "-infinity", "1582-10-10", "1900-01-02"),
        ),
    ),
    Case("time", strings("00:00", "24:00", "23:59:59.999999", "00:00:00.000001")),
    Case("time(2)", strings("23:59:59.99", "12:00")),
    Case("timetz", strings("00:00+15:59:59", "24:00-15:59:59", "12:34:56.000001+05:45", "12:00Z")),
    Case(
        "timestamp",
        strings(
            *("4713-11-24 00:00:00 BC", "0044-03-15 12:00:00.000001 BC", "294276-12-31 23:59:59.999999"),
            *(
                "infinity",
                "-infinity",
                "1999-12-31 23:59:59.999999",
                "2000-01-01 00:00:00",
                "2001-02-03 04:05:06.7",
            ),
        ),
    ),
    Case("timestamp(0)", strings("2001-02-03 04:05:06", "infinity")),
    Case(
        "timestamptz",
        strings(
            *(
                "4713-11-24 00:00:00+00 BC",
                "0044-03-15 12:00:00.000001+05:45 BC",
                "294276-12-31 23:59:59.999999+00",
            ),
            *(
                "infinity",
                "-infinity",
                "2024-03-31 01:59:59.999999+00",
                "2024-10-27 00:30:00+00",
                "1883-11-18 12:03:58+00",
            ),
            "2001-02-03 04:05:06.7-15:59:59",
        ),
    ),
    Case("timestamptz(3)", strings("2001-02-03 04:05:06.789+01", "-infinity")),
    Case(
        "interval",
        strings(
            *(
                "178000000 years",
                "-178000000 years",
                "0",
                "-1 mon +2 days -03:04:05.000006",
                "1 day",
                "24:00:00",
            ),
            *(
                "1 mon -1 day +00:00:00.000001",
                "-00:00:00.000001",
                "1 year -1 mon",
                "30 days",
                "1 mon",
                "-1 day +00:00",
            ),
            *(
                "2147483647 days",
                "-2147483648 days",
                "2562047788:00:54.775807",
                "1 day -24:00:00",
                "-1 year -2 days",
            ),
            *("infinity", "-infinity"),
        ),
    ),
    Case("interval day to second(3)", strings("-1 day -02:03:04.567", "1 day -00:00:00.001")),
    Case("interval year to month", strings("-1 year -2 mons", "0")),
)
