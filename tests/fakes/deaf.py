"""A worker process that does not stop when it is asked to."""

from __future__ import annotations

import signal
import sys
import time


def main() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdout.write("deaf\n")
    time.sleep(600)


if __name__ == "__main__":
    main()
