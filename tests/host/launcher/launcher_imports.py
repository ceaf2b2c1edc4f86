"""Imports what the launcher imports, and tells what of its home and environment stays in it. For the lab environment's Python.

JSON: places (module.class.attribute) whose value has the home in it; names of the environment's variables that were asked for.
"""

from __future__ import annotations

import json
import os
import posix
import sys
import types
from typing import Any

HOME = "/of-the-launcher"
asked: set[str] = set()
places: set[str] = set()
seen: set[int] = set()
_get = os._Environ.__getitem__


def remember(self: Any, key: str) -> str:
    asked.add(os.fsdecode(key))
    return _get(self, key)


def look(place: str, value: Any, depth: int = 0) -> None:
    """Add the place if the value has the home in it, somewhere near."""
    if isinstance(value, (str, bytes, os.PathLike)):
        try:
            text = os.fsdecode(value)
        except TypeError:
            return
        if HOME in text:
            places.add(place)
        return
    if depth > 4 or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, dict):
        below = value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        below = value
    elif isinstance(value, type):
        for key, part in list(vars(value).items()):
            look(f"{place}.{key}", part, 0)
        return
    elif isinstance(value, types.FunctionType):
        below = [value.__defaults__, value.__kwdefaults__]
    elif hasattr(value, "__dict__") and not isinstance(value, types.ModuleType):
        below = vars(value).values()
    else:
        return
    for part in list(below):
        look(place, part, depth + 1)


os.environ["HOME"] = HOME
os._Environ.__getitem__ = remember  # type: ignore[method-assign]
from diycloud.launcher.prepare import prepare  # noqa: E402

facts = prepare()
os._Environ.__getitem__ = _get  # type: ignore[method-assign]
assert facts["rehearsed"] and facts["threads"] == 1, facts
seen.update(map(id, (os.environ, os.environb, posix.environ)))
for name, module in sorted(sys.modules.items()):
    if module is not None and name not in ("__main__", "__mp_main__"):
        for key, value in list(vars(module).items()) if hasattr(module, "__dict__") else ():
            look(f"{name}.{key}", value)
print(json.dumps({"places": sorted(places), "variables": sorted(asked)}))
