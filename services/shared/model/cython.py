"""The replacement for Cython's module of this name in the hot modules, where they run as Python.

When `hatch_build.py` compiles such a module `NAME.py`, it imports Cython's `cython` instead, whose `compiled`
is a constant that is true. The functions that are then not defined here are C functions in `_NAME.pxd`.
"""

compiled = False
