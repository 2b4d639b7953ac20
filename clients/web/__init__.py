"""The web server: REST and WebSocket over the control API, for `pgmig-cli serve`.

`server` starts it, `app` puts it together. Every request passes `guard` first. `reading` and `commands` are
the routes, `sockets` the WebSocket. `migrations` finds the coordinator of a migration. `feeds` watches each
migration once for all WebSockets, and `changes` decides what a WebSocket has not got yet. Nothing here
decides anything about phases: that is the coordinator's.
"""
