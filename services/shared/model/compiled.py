"""Choosing between a hot module and its compiled twin, which has the same interface and results.

The twin `_NAME` of `NAME.py` is compiled from the same source with the C types of `_NAME.pxd`, or from a
source of its own, `_NAME.pyx`. `hatch_build.py` builds it if there is a C compiler. Without a compiler, or if
PGMIG_PURE_PYTHON is set, the slower Python module is used.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

PURE_PYTHON = "PGMIG_PURE_PYTHON"
"""Environment variable; any non-empty value disables compiled twins."""


def twin_of(module: ModuleType) -> Any:
    """The compiled twin of `module`, or `module` itself if there is none."""
    package, _, name = module.__name__.rpartition(".")
    twin = f"{package}._{name}"
    if os.environ.get(PURE_PYTHON) or find_spec(twin) is None:
        return module
    return import_module(twin)
