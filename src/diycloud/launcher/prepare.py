"""What all servers have in common, made once before the first fork: modules, and nothing that is open."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from diycloud.launcher.rehearsal import find_modules


def prepare() -> dict[str, Any]:
    """Import what servers need, then hide it from the garbage collector, so that forks go on sharing its memory.

    Returns facts for the log: seconds it took, modules, and the threads of this process (one: a fork has no other).
    """
    started = time.monotonic()
    gc.disable()
    _leave_out_system_packages()
    importlib.import_module("diycloud.launcher.single_user")
    rehearsed = find_modules()
    for name in rehearsed:
        try:
            importlib.import_module(name)
        except Exception:  # noqa: S112 - one that loads in a server only; it still will
            continue
    gc.collect()
    gc.freeze()
    return {
        "seconds": round(time.monotonic() - started, 2),
        "rehearsed": bool(rehearsed),
        "modules": len(sys.modules),
        "threads": len(os.listdir("/proc/self/task")),  # noqa: PTH208 - numbers
    }


def _leave_out_system_packages() -> None:
    """Leave out the host's own Python packages, which kernels may see (`pip install --user` needs that) and servers need not."""
    own = Path(sys.prefix).resolve()
    sys.path[:] = [
        folder for folder in sys.path if not folder.endswith("-packages") or Path(folder).resolve().is_relative_to(own)
    ]
