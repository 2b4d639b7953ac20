"""The only importer of grpc: the control API and the worker API, both ends, model values only.

gRPC's own log, which goes to stderr past ours, is off unless GRPC_VERBOSITY is set: what goes
wrong in a call surfaces as that call's error.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
