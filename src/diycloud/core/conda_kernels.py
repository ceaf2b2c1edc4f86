"""The kernels that a conda environment brings, as everybody's notebooks are offered them.

A Python kernel if ipykernel is in it, and the kernels of other languages that its packages describe in
`share/jupyter/kernels` (Jupyter client, "Kernel specs"; r-irkernel, xeus-cpp and others). They are started as in an
activated environment: `bin` first in PATH, CONDA_PREFIX, the variables of `etc/conda/env_vars.d` and the scripts of
`etc/conda/activate.d` ("Managing environments": gdal, proj, compilers and others need them).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from diycloud.core.conda import list_packages
from diycloud.core.environments import PACKAGE
from diycloud.system import System

_DIRECTORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}\Z")
_KERNEL_CONFIG = PACKAGE / "launcher" / "kernel_config.py"
_ACTIVATE = """for script in "$CONDA_PREFIX"/etc/conda/activate.d/*.sh; do . "$script"; done; exec "$@"\n"""
_PICTURES = ("logo-32x32.png", "logo-64x64.png", "logo-svg.svg")


class Described(msgspec.Struct, frozen=True):
    """A kernel that is offered. directory: its name in Jupyter; spec: its kernel.json; source: the folder of its pictures."""

    directory: str
    spec: dict[str, Any]
    source: Path


def find_kernels(system: System, name: str, prefix: Path) -> list[Described]:
    """Return what an environment brings. The Python kernel has the environment's name, others have theirs behind a dot.

    No environment's name has a dot, so these never meet, and a notebook's kernel stays the same whatever is installed later.
    """
    folder = prefix / "share" / "jupyter" / "kernels"
    found = []
    if "ipykernel" in list_packages(system, prefix) and system.exists(prefix / "bin" / "python"):
        argv = [str(prefix / "bin" / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": f"{name} (shared)", "language": "python"}
        found.append(Described(name, _as_activated(system, prefix, spec), folder / "python3"))
    for entry in system.list_dir(folder):
        own = _read(system, folder / entry, prefix) if _DIRECTORY.match(entry) else None
        if own is not None:
            own["display_name"] = f"{own['display_name']} ({name}, shared)"
            found.append(Described(f"{name}.{entry}", _as_activated(system, prefix, own), folder / entry))
    return found


def offer(system: System, place: Path, name: str, prefix: Path) -> tuple[str, ...]:
    """Offer what an environment brings, and nothing else of it; returns the kernels' names.

    place: the folder of shared kernels. Each kernel's description is written last.
    """
    found = find_kernels(system, name, prefix)
    withdraw(system, place, name, keep={kernel.directory for kernel in found})
    if "ipykernel" in list_packages(system, prefix):
        _close_ports(system, prefix)
    for kernel in found:
        folder = place / kernel.directory
        for missing in [path for path in (*reversed(folder.parents), folder) if not system.exists(path)]:
            system.make_dir(missing)
        for picture in _PICTURES:
            if system.exists(kernel.source / picture):
                system.run(
                    ["install", "-m", "0644", str(kernel.source / picture), str(folder / picture)]
                )  # no link is shown
        system.write(folder / "kernel.json", json.dumps(kernel.spec, indent=1, ensure_ascii=False) + "\n")
    return tuple(kernel.directory for kernel in found)


def list_offered(system: System, place: Path, name: str) -> tuple[str, ...]:
    """Return the names of an environment's kernels that are offered."""
    return tuple(entry for entry in _of(system, place, name) if system.exists(place / entry / "kernel.json"))


def withdraw(system: System, place: Path, name: str, *, keep: set[str] | frozenset[str] = frozenset()) -> bool:
    """Offer an environment's kernels no more. True if any was."""
    gone = [entry for entry in _of(system, place, name) if entry not in keep]
    for entry in gone:
        system.remove_tree(place / entry)
    return bool(gone)


def _of(system: System, place: Path, name: str) -> list[str]:
    return [entry for entry in system.list_dir(place) if entry.partition(".")[0] == name]


def _read(system: System, folder: Path, prefix: Path) -> dict[str, Any] | None:
    """Return the kernel.json of a package, None for IPython's own, which is offered otherwise, and for what cannot start."""
    try:
        given = json.loads(system.read(folder / "kernel.json") or "")
    except ValueError:
        return None
    argv = given.get("argv") if isinstance(given, dict) else None
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) and "\0" not in word for word in argv):
        return None
    argv = [word.replace("{resource_dir}", str(folder)) for word in argv]
    program = Path(argv[0]) if "/" in argv[0] else prefix / "bin" / argv[0]
    if any(word.startswith("ipykernel") for word in argv) or not program.is_absolute() or not system.exists(program):
        return None
    metadata, env = given.get("metadata"), given.get("env")
    kept = {
        "argv": [str(program), *argv[1:]],
        "display_name": str(given.get("display_name") or folder.name),
        "language": str(given.get("language") or ""),
        "env": {key: value for key, value in env.items() if isinstance(value, str)} if isinstance(env, dict) else {},
        # What starts kernels is the launcher's: a package's own provisioner is not in the environment of servers.
        "metadata": {k: v for k, v in metadata.items() if k != "kernel_provisioner"}
        if isinstance(metadata, dict)
        else {},
    }
    if given.get("interrupt_mode") in ("signal", "message"):
        kept["interrupt_mode"] = given["interrupt_mode"]
    return kept


def _as_activated(system: System, prefix: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """Return a kernel.json with what activating the environment would do before its program starts."""
    variables: dict[str, str] = {}
    folder = prefix / "etc" / "conda"
    for entry in system.list_dir(folder / "env_vars.d"):
        try:
            found = json.loads(system.read(folder / "env_vars.d" / entry) or "")
        except ValueError:
            continue
        if isinstance(found, dict):
            variables.update({key: value for key, value in found.items() if isinstance(value, str)})
    path = {"PATH": f"{prefix / 'bin'}:${{PATH}}", "CONDA_PREFIX": str(prefix)}  # Jupyter puts the server's PATH in
    argv = spec["argv"]
    if any(entry.endswith(".sh") for entry in system.list_dir(folder / "activate.d")):
        argv = ["/bin/bash", "-c", _ACTIVATE, "kernel", *argv]
    metadata = {**spec.get("metadata", {}), "debugger": False}
    return {**spec, "argv": argv, "env": {**path, **variables, **spec.get("env", {})}, "metadata": metadata}


def _close_ports(system: System, prefix: Path) -> None:
    """Have every kernel that is built on IPython's read our file (launcher/kernel_config.py), bash_kernel and its like too.

    IPython reads the environment's `etc/ipython` ("Introduction to IPython configuration", "Systemwide configuration").
    """
    folder = prefix / "etc" / "ipython"
    place = folder / "ipython_kernel_config.py"
    if system.exists(place):
        return
    for missing in [path for path in (folder.parent, folder) if not system.exists(path)]:
        system.make_dir(missing)
    system.link(place, str(_KERNEL_CONFIG))
