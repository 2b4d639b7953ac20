"""pgmig-cli whose embedded stack is the real nats-server and stand-ins for the services."""

from __future__ import annotations

import sys
from functools import partial

from clients.cli import target
from clients.cli.__main__ import main
from clients.cli.embedded.stack import StackPlan


def standin_command(role: str) -> tuple[str, ...]:
    module = "coordinator" if role == "coordinator" else "worker"
    return (sys.executable, "-P", "-m", f"tests.standins.{module}")


if __name__ == "__main__":
    setattr(target, "StackPlan", partial(StackPlan, command=standin_command, copiers=1))  # noqa: B010
    main()
