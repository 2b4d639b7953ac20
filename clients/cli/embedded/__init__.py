"""The embedded stack: nats-server and the services as child processes of the CLI.

One stack serves one migration on one machine. The CLI process is its supervisor and its life:

- A lock keeps a second stack of the same migration out until the last process of the first has
  ended; `stack.json` tells other terminals where the coordinator listens.
- Children run in sessions of their own, so Ctrl-C in the terminal reaches the CLI alone, which
  then stops them in order: workers, coordinator, nats-server.
- Children end when the CLI dies in any way: the kernel signals them (Linux, see `shim`), and
  their standard input, a pipe that the CLI alone holds open, reaches its end.
- Services are forked from one process that has imported them (Linux, see `forkserver`).
- A child that crashes is started again with back-off, on the same port or socket.
"""
