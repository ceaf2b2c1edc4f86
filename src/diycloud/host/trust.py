"""Whether a program is root's alone, so that root may run it: what somebody else could change, they could have root do."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from diycloud.errors import HostError

_ACL = "system.posix_acl_access"
_LINKS = 40
"""As many links as Linux follows in one path (path_resolution(7))."""


def find_weakness(program: Path) -> str:
    """Return what others than root could change of what a program runs, in words; empty if there is nothing.

    Looked at: the program, every folder and link on the way to it, its interpreter, and where it is part of a conda
    installation (`conda-meta` beside its `bin`) all of that, since its own libraries are there. Not the packages and
    environments that such an installation keeps: they are data to it.
    Raises HostError for what cannot be read or is no program.
    """
    try:
        real = Path(os.path.realpath(program, strict=True))
        if not stat.S_ISREG(real.stat().st_mode) or not real.stat().st_mode & 0o111:
            raise HostError(f"{program} is no program.")
        looked_at = [*_way_to(program), *_way_to(real)]
        if interpreter := _interpreter(real):
            looked_at += _way_to(Path(interpreter))
        weak = next((found for path in looked_at if (found := _weakness(path, on_the_way=True))), "")
        installation = real.parent.parent
        if not weak and (installation / "conda-meta").is_dir():
            weak = _weakness_below(installation)
    except OSError as error:
        raise HostError(f"{program} cannot be looked at: {error.strerror} ({error.filename}).") from error
    return weak


def _way_to(path: Path, links: int = _LINKS) -> Iterator[Path]:
    """Return every folder and link that is passed on the way to a path, and the path itself."""
    at = Path("/")
    yield at
    for part in path.parts[1:]:
        at = at / part
        yield at
        if at.is_symlink():
            if not links:
                raise HostError(f"{path} leads through too many links.")
            yield from _way_to(Path(os.path.normpath(at.parent / at.readlink())), links - 1)
            at = Path(os.path.realpath(at))


def _weakness(path: Path, *, on_the_way: bool = False) -> str:
    """Return who could change a path. on_the_way: a folder where all may add files, but not replace others' (sticky), will do."""
    found = os.lstat(path)
    mode = found.st_mode
    if found.st_uid != 0:
        return f"{path} belongs to number {found.st_uid}"
    if stat.S_ISLNK(mode) or (on_the_way and stat.S_ISDIR(mode) and mode & stat.S_ISVTX):
        return ""
    by_group = mode & 0o020 and (
        found.st_gid != 0 or _ACL in os.listxattr(path)
    )  # the bits of a group show a list's, too
    return f"{path} may be written to by others (mode {stat.S_IMODE(mode):04o})" if by_group or mode & 0o002 else ""


def _weakness_below(installation: Path) -> str:
    for folder, folders, files in os.walk(installation, onerror=_raise):
        if folder == str(installation):
            folders[:] = [name for name in folders if name not in ("pkgs", "envs")]
        for name in (*folders, *files):
            path = Path(folder, name)
            if weak := _weakness(path) or (_weakness_of_target(path, installation) if path.is_symlink() else ""):
                return weak
    return _weakness(installation)


def _weakness_of_target(link: Path, installation: Path) -> str:
    """Return what is wrong with where a link out of an installation leads; nothing may be there."""
    target = Path(os.path.realpath(link))
    if target.is_relative_to(installation) or not target.exists():
        return ""
    return next((weak for path in _way_to(target) if (weak := _weakness(path, on_the_way=True))), "")


def _interpreter(program: Path) -> str:
    """Return the interpreter that a script's first line names (execve(2)); empty for what is no script."""
    with program.open("rb") as file:
        first = file.readline(256)
    words = first[2:].split() if first.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words and words[0].startswith(b"/") else ""


def _raise(error: OSError) -> None:
    raise error
