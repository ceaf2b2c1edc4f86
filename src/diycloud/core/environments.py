"""Python environments of the platform's own: what is in one, and making it so.

Made in place and noted at the end, so a run that is killed is continued by the next. What the requirements of this program
name is checked by hash; what an administrator adds is not, and is taken as wheels only: a source would run its own code
as root. pip's settings of this machine (PIP_*, pip.conf, SSL_CERT_FILE, REQUESTS_CA_BUNDLE) are used as they are.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

import diycloud
from diycloud.errors import HostError
from diycloud.system import System

PACKAGE = Path(diycloud.__file__).parent
REQUIREMENTS = PACKAGE.parent.parent / "requirements"
"""Beside src/ in the source tree, beside lib/ where the program is installed."""
_NOTE = ".made-from"
_PIP_S = 3600.0
_WHEELS = ("--only-binary", ":all:")
"""What a source package is built with is in no list of hashes, and would run as root."""
_OF_PIP = re.compile(
    r"PIP_[A-Z0-9_]+\Z|SSL_CERT_(FILE|DIR)\Z|REQUESTS_CA_BUNDLE\Z|(https?|no|all)_proxy\Z", re.IGNORECASE
)


class Environment(msgspec.Struct, frozen=True):
    """What an environment is to be.

    folder: where; requirements: a file of exact versions with their hashes; packages: requirements of pip's beside them,
    within those versions; program: this program can be imported there, from its own folder; open: what is outside can be
    used too, as `pip install --user` needs it (PEP 370; venv's include-system-site-packages).
    """

    folder: Path
    requirements: Path
    packages: tuple[str, ...] = ()
    program: bool = False
    open: bool = False

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        return self.folder / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"


class _Made(msgspec.Struct):
    """What is noted in an environment. whole: False while it is being made."""

    requirements: str
    python: str
    packages: tuple[str, ...]
    whole: bool


def interpreter() -> Path:
    """Return the Python that environments are made with: the one that this program's own was made with."""
    return Path(sys.executable).resolve()


def is_current(system: System, environment: Environment) -> bool:
    """Tell whether an environment is there, whole, and as it is described."""
    wanted = _wanted(system, environment)
    return system.exists(environment.python) and _read_note(system, environment) == wanted


def ensure_environment(system: System, environment: Environment) -> bool:
    """Make an environment be as described. True if anything was done. Raises HostError with pip's last words."""
    if is_current(system, environment):
        return False
    wanted, found = _wanted(system, environment), _read_note(system, environment)
    earlier = found.packages if found else ()
    _write_note(system, environment, wanted, earlier=earlier)
    if found is None or found.python != wanted.python or not _has_pip(system, environment):
        system.remove_tree(environment.folder)
        _make_folders(system, environment.folder.parent)
        system.run([str(interpreter()), "-I", "-m", "venv", str(environment.folder)], timeout=300)
        _write_note(system, environment, wanted, earlier=())
        earlier = ()
    _set_open(system, environment, False)  # nothing of the host's may be taken for a part of it
    if gone := sorted({_plain(name) for name in earlier} - {_plain(name) for name in environment.packages}):
        pip(system, environment, "uninstall", "--yes", "--", *gone)
    pip(system, environment, "install", "--require-hashes", *_WHEELS, "--requirement", str(environment.requirements))
    add_packages(system, environment, environment.packages)
    if environment.program:
        system.link(environment.site_packages / "diycloud", str(PACKAGE))
    _set_open(system, environment, environment.open)
    settle(system, environment.folder)
    _write_note(system, environment, wanted, earlier=(), whole=True)
    return True


def settle(system: System, folder: Path) -> None:
    """Have all of a folder's file system on disk, ahead of a note that says it is there.

    pip flushes nothing: a power cut within half a minute would leave the note beside files that are empty.
    """
    system.run(["sync", "-f", str(folder)], timeout=600)


def _set_open(system: System, environment: Environment, value: bool) -> None:
    place = environment.folder / "pyvenv.cfg"
    text = system.read(place)
    if text is not None:
        word = "true" if value else "false"
        system.write(place, re.sub(r"(?m)^(include-system-site-packages = ).*$", rf"\g<1>{word}", text))


def add_packages(system: System, environment: Environment, packages: Sequence[str], *, sources: bool = False) -> None:
    """Install packages into an environment, without changing a version that its requirements name.

    sources: also those that have no wheel, whose own code then runs as root. Raises HostError with pip's last words.
    """
    if not packages:
        return
    held = environment.folder / "constraints.txt"
    system.write(held, "".join(f"{pin}\n" for pin in pins(system, environment)))
    _set_open(system, environment, False)
    only = () if sources else _WHEELS
    try:
        pip(system, environment, "install", *only, "--constraint", str(held), "--", *packages)
    finally:
        _set_open(system, environment, environment.open)


def pip(system: System, environment: Environment, verb: str, *arguments: str) -> None:
    """Run pip in an environment. Raises HostError with what it says is wrong."""
    quiet = ["--disable-pip-version-check", "--no-input", *(["--no-cache-dir"] if verb == "install" else [])]
    argv = [str(environment.python), "-I", "-m", "pip", verb, *quiet, *arguments]
    given = {key: value for key, value in os.environ.items() if _OF_PIP.match(key)}
    try:
        system.run(argv, timeout=_PIP_S, env=given)
    except HostError as error:
        said = "\n".join(re.findall(r"\bERROR: (.+)", error.message)) or error.message
        hint = next((hint for words, hint in _HINTS.items() if words in said), "")
        raise HostError(f"pip cannot {verb} in {environment.folder}: {said}", hint) from error


_HINTS = {
    "No matching distribution": "See whether name and version are right, and pip's settings (PIP_*, pip.conf). Only packages "
    "with a wheel for this Python are taken; `diycloud jupyter env` takes others with --sources.",
    "ResolutionImpossible": "The versions that the environment is made of stay; ask for one that goes with them, or for none.",
}
"""What to do about what pip says."""


def pins(system: System, environment: Environment) -> list[str]:
    """Return the lines of an environment's requirements that name a version, without their hashes."""
    lines = (system.read(environment.requirements) or "").splitlines()
    return [line.rstrip(" \\") for line in lines if re.match(r"[A-Za-z0-9]", line)]


def _plain(package: str) -> str:
    """Return the bare name of a requirement of pip's (PEP 503)."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[=<>!~]", package, maxsplit=1)[0]).lower()


def _wanted(system: System, environment: Environment) -> _Made:
    text = system.read(environment.requirements)
    if text is None:
        raise HostError(f"{environment.requirements} is not there.", "Run install.sh of the whole source tree.")
    digest = hashlib.sha256(text.encode()).hexdigest()
    return _Made(digest, f"{interpreter()} {sys.version}", environment.packages, whole=True)


def _read_note(system: System, environment: Environment) -> _Made | None:
    try:
        return msgspec.json.decode(system.read(environment.folder / _NOTE) or "", type=_Made)
    except (msgspec.MsgspecError, UnicodeError):
        return None


def _write_note(
    system: System, environment: Environment, wanted: _Made, *, earlier: Sequence[str], whole: bool = False
) -> None:
    """Note what is in the environment, or may be: a run that is killed may have added some and not yet removed others."""
    if not whole and not system.exists(environment.folder):
        return
    packages = wanted.packages if whole else tuple(dict.fromkeys((*earlier, *wanted.packages)))
    note = msgspec.structs.replace(wanted, packages=packages, whole=whole)
    system.write(environment.folder / _NOTE, msgspec.json.encode(note).decode() + "\n", mode=0o600)


def _has_pip(system: System, environment: Environment) -> bool:
    return system.query([str(environment.python), "-I", "-m", "pip", "--version"]).ok


def _make_folders(system: System, folder: Path) -> None:
    for missing in [path for path in (*reversed(folder.parents), folder) if not system.exists(path)]:
        system.make_dir(missing)
