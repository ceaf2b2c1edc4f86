"""Starter notebooks: copied once into `notebooks/` of a home, by the user's own process.

A notebook that is of no use without some packages names them in its metadata, `{"diycloud": {"needs": ["pandas"]}}`, and is
given once they are there.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

FOLDER = "notebooks"
_MARK = Path(".local/share/diycloud/starters")
"""Below the home: names that were given once. Who removes a starter, or renames it, does not get it again."""
_LARGEST = 50 * 1024 * 1024


def copy_starters(sources: Iterable[Path], home: Path) -> None:
    """Copy what the user has not had yet. Nothing is overwritten, and a home that takes nothing (full) stops no server."""
    try:
        _copy_new(sources, home)
    except (OSError, ValueError) as error:  # ValueError: what is written there of earlier ones is no text
        _tell(error)


def _copy_new(sources: Iterable[Path], home: Path) -> None:
    mark, folder = home / _MARK, home / FOLDER
    had = set(os.fsdecode(mark.read_bytes()).splitlines()) if mark.exists() else set()
    new = [file for file in _files(sources) if file.name not in had and _is_for_here(file)]
    if not new:
        return
    folder.mkdir(exist_ok=True)
    mark.parent.mkdir(parents=True, exist_ok=True)
    for file in new:
        _copy(file, folder / file.name)
    with mark.open("ab") as names:
        names.writelines(os.fsencode(f"{file.name}\n") for file in new)


def _files(sources: Iterable[Path]) -> list[Path]:
    """Return the files of the folders, one of each name: the last folder's."""
    found: dict[str, Path] = {}
    for source in sources:
        try:
            found |= {entry.name: entry for entry in sorted(source.iterdir()) if _is_starter(entry)}
        except FileNotFoundError:
            continue  # the administrator has none
        except OSError as error:
            _tell(error)
    return list(found.values())


def _is_starter(entry: Path) -> bool:
    if entry.name.startswith((".", "_")):
        return False
    try:
        facts = entry.stat()
    except OSError as error:  # a link to nowhere is no reason to leave out the others
        _tell(error)
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_size <= _LARGEST


def _is_for_here(file: Path) -> bool:
    """Tell whether a file can be given: people may read it, and what it needs is there."""
    try:
        return os.access(file, os.R_OK) and all(map(_is_installed, _needs(file)))
    except OSError as error:
        _tell(error)
        return False


def _needs(file: Path) -> list[str]:
    """Return the packages that a notebook names; none if it is another file, or not as it should be."""
    if file.suffix != ".ipynb":
        return []
    try:
        needs = json.loads(file.read_bytes())["metadata"]["diycloud"]["needs"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    return [name for name in needs if isinstance(name, str)] if isinstance(needs, list) else []


def _is_installed(name: str) -> bool:
    """Tell whether the default kernel can import a package: it runs in this same environment."""
    try:
        return importlib.util.find_spec(name) is not None
    except Exception:  # a part of a package that is not there, or cannot be loaded
        return False


def _tell(error: Exception) -> None:
    print(f"Starter notebooks: {error}")  # noqa: T201 - the server's own output, kept by the shim


def _copy(source: Path, target: Path) -> None:
    """Copy a file that is not there; what is there, be it a link to nowhere, stays."""
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return
    try:
        with os.fdopen(descriptor, "wb") as copy, source.open("rb") as original:
            shutil.copyfileobj(original, copy)
    except OSError:  # a full home: half a notebook would be taken for the whole one the next time
        target.unlink(missing_ok=True)
        raise
