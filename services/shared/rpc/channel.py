"""What all gRPC endpoints of pgmig have in common: options, and tracing when it is on.

Keepalive pings are sent every 10 s and must be answered within 5 s, so that both ends notice within 20 s
that a peer vanished without closing its connection. What a client receives may contain a view of tens of
thousands of tables. What the server receives may come from anybody, so its size is limited (`limits`).
No HTTP proxy is used: like connections to PostgreSQL and NATS, ours go directly to the given host.
"""

from __future__ import annotations

from typing import Any

from grpc import aio
from opentelemetry import trace

_LONGEST_ANSWER = 64 * 1024 * 1024
_LONGEST_REQUEST = 4 * 1024 * 1024
_WINDOW = 64 * 1024
"""Bytes that a stream may send before they are read."""
CONNECTIONS = 256
_STREAMS = 16
"""Per connection."""
_LONGEST_METADATA = 64 * 1024

_BOTH = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Without this, the peer has 60 s to answer a ping, whatever the keepalive timeout is.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", _LONGEST_ANSWER),
    ("grpc.max_metadata_size", _LONGEST_METADATA),
    ("grpc.absolute_max_metadata_size", _LONGEST_METADATA),
)

SERVER_OPTIONS = (
    *_BOTH,
    ("grpc.max_receive_message_length", _LONGEST_REQUEST),
    ("grpc.max_concurrent_streams", _STREAMS),
    ("grpc.max_allowed_incoming_connections", CONNECTIONS),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.server_handshake_timeout_ms", 10_000),
    # Windows keep their size, even if a peer sends fast.
    ("grpc.http2.lookahead_bytes", _WINDOW),
    ("grpc.http2.bdp_probe", 0),
    # A connection may ping every 5 s; by default, every 5 min. More frequent pings end the connection.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 5),
    # Two coordinators on one port would share its connections at random.
    ("grpc.so_reuseport", 0),
)

CLIENT_OPTIONS = (
    *_BOTH,
    ("grpc.max_receive_message_length", _LONGEST_ANSWER),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # The time that gRPC allows for an attempt to connect. It does not lengthen the pause between attempts.
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


def _tracing() -> bool:
    """Whether a real tracer provider has been installed in this process."""
    provider = trace.get_tracer_provider()
    return not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def _traced() -> Any:
    """The interceptors' filter. A span that lasts as long as a worker or a dashboard has no use."""
    from opentelemetry.instrumentation.grpc import filters

    untraced = ("Attach", "WatchMigration", "WatchOperation", "ServerReflectionInfo")
    methods = [filters.method_name(name) for name in untraced]
    return filters.negate(filters.any_of(*methods, filters.health_check()))


def server_interceptors() -> list[Any]:
    """Interceptors that continue a caller's trace. If tracing is off, none, and nothing is imported."""
    if not _tracing():
        return []
    from opentelemetry.instrumentation.grpc import aio_server_interceptor

    return [aio_server_interceptor(filter_=_traced())]  # type: ignore[no-untyped-call]


def _client_interceptors() -> list[Any]:
    """Interceptors that send the current trace context; none if tracing is off."""
    if not _tracing():
        return []
    from opentelemetry.instrumentation.grpc import aio_client_interceptors

    interceptors: list[Any] = aio_client_interceptors(filter_=_traced())  # type: ignore[no-untyped-call]
    return interceptors


def open_channel(address: str, *, traced: bool = True) -> aio.Channel:
    """A channel to HOST:PORT. It connects when first used. Needs a running event loop."""
    interceptors = _client_interceptors() if traced else []
    return aio.insecure_channel(address, options=CLIENT_OPTIONS, interceptors=interceptors)
