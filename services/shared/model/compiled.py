"""Choosing between a hot module and its compiled twin, which has the same interface and results.

Twins are Cython (`_NAME.pyx` beside `NAME.py`), built by `hatch_build.py` where a C compiler is at
hand. Without one, or with PGMIG_PURE_PYTHON set, the Python module does the work, more slowly.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

PURE_PYTHON = "PGMIG_PURE_PYTHON"
"""Environment variable; any value but the empty one turns compiled twins off."""


def twin_of(module: ModuleType) -> Any:
    """The compiled twin of `module`, or `module` itself where there is none."""
    package, _, name = module.__name__.rpartition(".")
    twin = f"{package}._{name}"
    if os.environ.get(PURE_PYTHON) or find_spec(twin) is None:
        return module
    return import_module(twin)
