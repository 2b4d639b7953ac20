"""A service that does not start."""

from __future__ import annotations

import sys


def main() -> None:
    sys.exit("no such thing")


if __name__ == "__main__":
    main()
