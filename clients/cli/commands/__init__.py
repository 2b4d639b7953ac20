"""The sub-commands, one module for each group. They only parse options, call the session, and print."""
