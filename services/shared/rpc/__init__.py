"""The only importer of grpc: client and server of the control API and the worker API, for model values.

gRPC's own log, which bypasses ours and goes to stderr, is off unless GRPC_VERBOSITY is set. A problem in a
call is raised as that call's error.
"""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
