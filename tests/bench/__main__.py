"""`make bench`: ratios against peers, in one run. Seconds depend on the machine, ratios less so."""

from __future__ import annotations

import argparse

from tests.bench import cdc, clone, switchover

BENCHES = ("cdc", "clone", "switchover")
PEERS = ("cdc", "clone")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "benches", nargs="*", metavar="BENCH", help=f"of {', '.join(BENCHES)}; default: {', '.join(PEERS)}"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="size of the workloads, 1 is full")
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often each is repeated, in alternate order"
    )
    parser.add_argument(
        "--peers", default="", help="clone: only these besides pgmig, by parts of their names, with commas"
    )
    parser.add_argument(
        "--pause-pooler", action="store_true", help="switchover: clients are connected to a PgBouncer"
    )
    given = parser.parse_args()
    for name in given.benches or PEERS:
        if name not in BENCHES:
            parser.error(f"no bench {name}: there are {', '.join(BENCHES)}")
        if name == "clone":
            clone.main(given.scale, given.only, given.rounds, given.peers)
        elif name == "switchover":
            switchover.main(given.scale, given.rounds, pooled=given.pause_pooler)
        else:
            cdc.main(given.scale, given.only, given.rounds)


if __name__ == "__main__":
    main()
