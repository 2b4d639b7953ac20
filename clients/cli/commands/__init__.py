"""The sub-commands, one module for each group; thin: they parse, ask, and show."""
