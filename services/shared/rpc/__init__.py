"""The only importer of grpc: the control API and the worker API, both ends, model values only.

gRPC's own log, which goes to stderr past ours, is off unless GRPC_VERBOSITY is set: what goes
wrong in a call surfaces as that call's error.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from services.shared.rpc.control_api import ControlHandler
from services.shared.rpc.control_client import ControlClient
from services.shared.rpc.health import HealthServer
from services.shared.rpc.server import ControlServer
from services.shared.rpc.worker_link import WorkerCommandHandler, WorkerLink
from services.shared.rpc.workers_api import Send, WorkerHandler

__all__ = [
    "ControlClient",
    "ControlHandler",
    "ControlServer",
    "HealthServer",
    "Send",
    "WorkerCommandHandler",
    "WorkerHandler",
    "WorkerLink",
]
