"""pgmig-cli whose embedded stack is the real nats-server and stand-ins for the services."""

from __future__ import annotations

import os
import sys
from functools import partial

from clients.__main__ import run
from clients.cli import coordinator
from clients.embedded import prestart
from clients.embedded.stack import StackPlan


def fake_module(role: str) -> str:
    return f"tests.fakes.{'coordinator' if role == 'coordinator' else 'worker'}"


if __name__ == "__main__":
    setattr(coordinator, "StackPlan", partial(StackPlan, module=fake_module, copiers=1))  # noqa: B010
    if prestart.likely(sys.argv[1:], os.environ):
        prestart.begin([fake_module("coordinator"), fake_module("worker")])
    run()
