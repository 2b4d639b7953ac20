"""`make bench`: ratios against peers, in one run. Seconds depend on the machine, ratios less so."""

from __future__ import annotations

import argparse

from tests.bench import cdc


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="size of the workloads, 1 is full")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    given = parser.parse_args()
    cdc.main(given.scale, given.only)


if __name__ == "__main__":
    main()
