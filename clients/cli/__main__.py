"""pgmig-cli."""

from __future__ import annotations

from clients.cli.app import cli


def main() -> None:
    cli(prog_name="pgmig-cli")


if __name__ == "__main__":
    main()
