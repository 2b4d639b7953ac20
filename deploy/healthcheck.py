"""Container health: asks the service beside it through the standard gRPC health protocol.

The address is the one that the service listens on: PGMIG_HEALTH_LISTEN (workers), else
PGMIG_LISTEN (the coordinator). Exits 0 when it says SERVING, 1 with a line when not.
"""

from __future__ import annotations

import os
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

TIMEOUT_S = 3


def main() -> int:
    address = os.environ.get("PGMIG_HEALTH_LISTEN") or os.environ.get("PGMIG_LISTEN", "127.0.0.1:7432")
    with grpc.insecure_channel(address) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S
            )
        except grpc.RpcError as exc:
            sys.stderr.write(f"{address}: {exc.code().name}\n")
            return 1
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        sys.stderr.write(f"{address}: not serving\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
