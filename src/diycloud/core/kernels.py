"""Shared environments: kernels that everybody's notebooks offer, made and changed by root.

Each is an environment in `envs/NAME` and a kernel in `share/jupyter/kernels/NAME`, which says how it is started (Jupyter
client, "Kernel specs"). The kernel is written last and removed first, so what is offered is whole.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec

from diycloud.config import Paths
from diycloud.config_notebooks import Package
from diycloud.core.environments import (
    REQUIREMENTS,
    Environment,
    add_packages,
    ensure_environment,
    interpreter,
    pins,
)
from diycloud.errors import Conflict, InvalidInput, NotFound
from diycloud.system import System

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}\Z")
_OF_LAB = "python3"
"""The name of the default environment's own kernel."""


class Kernel(msgspec.Struct, frozen=True):
    """A shared environment. packages: `name version` of what is in it; problem: why it cannot be used, if it cannot."""

    name: str
    folder: str
    packages: tuple[str, ...]
    problem: str = ""


def check_name(name: str) -> None:
    """Raise InvalidInput for what cannot be a shared environment's name."""
    if not NAME.match(name) or name == _OF_LAB:
        raise InvalidInput(
            f"{name[:60]!r} cannot be the name of an environment.", "Use 1–40 of a–z, 0–9, _ and -, but not python3."
        )


def check_packages(packages: tuple[str, ...]) -> None:
    """Raise InvalidInput for what is no requirement of pip's, or would be an option of it."""
    for package in packages:
        try:
            msgspec.convert(package, Package)
        except msgspec.ValidationError:
            raise InvalidInput(
                f"{package[:80]!r} is no package.", "Write its name, with a version or without: numpy, numpy==2.4.1."
            ) from None


def list_kernels(system: System, paths: Paths) -> list[Kernel]:
    """Return the shared environments by name, those that were begun and not finished among them."""
    return [_read(system, paths, name) for name in system.list_dir(paths.kernels / "envs") if NAME.match(name)]


def create(system: System, paths: Paths, name: str, packages: tuple[str, ...], *, sources: bool = False) -> Kernel:
    """Make a shared environment with packages in it, or go on where a run was cut off.

    Raises InvalidInput, Conflict if there is one already, HostError with pip's last words.
    """
    check_name(name)
    check_packages(packages)
    if system.exists(_spec(paths, name) / "kernel.json"):
        raise Conflict(
            f"There is an environment {name} already.", f"`diycloud jupyter env install {name} PACKAGE` adds to it."
        )
    _fill(system, paths, name, packages, sources=sources)
    return _read(system, paths, name)


def install(system: System, paths: Paths, name: str, packages: tuple[str, ...], *, sources: bool = False) -> Kernel:
    """Install packages into a shared environment, or other versions of them. Raises NotFound and as `create`."""
    check_name(name)
    check_packages(packages)
    if not system.exists(paths.kernels / "envs" / name):
        raise NotFound(f"There is no environment {name}.", "`diycloud jupyter env list` shows them.")
    _fill(system, paths, name, packages, sources=sources)
    return _read(system, paths, name)


def refresh(system: System, paths: Paths) -> list[str]:
    """Make those again whose Python is not the one of this platform any more; returns their names.

    What was in them is installed again, in the same versions.
    """
    done = []
    for kernel in list_kernels(system, paths):
        environment = _environment(paths, kernel.name)
        if system.query([str(environment.python), "-I", "-c", ""]).ok and system.exists(environment.site_packages):
            continue
        own = {pin.partition("==")[0] for pin in pins(system, environment)} | {"pip", "setuptools"}
        held = tuple(package.replace(" ", "==") for package in kernel.packages if package.split(" ")[0] not in own)
        _fill(system, paths, kernel.name, held, sources=False)
        done.append(kernel.name)
    return done


def remove(system: System, paths: Paths, name: str) -> None:
    """Take a shared environment away. Kernels that run go on with what they have loaded. Raises NotFound."""
    check_name(name)
    there = system.remove_tree(_spec(paths, name))
    there |= system.remove_tree(paths.kernels / "envs" / name)
    if not there:
        raise NotFound(f"There is no environment {name}.", "`diycloud jupyter env list` shows them.")


def _fill(system: System, paths: Paths, name: str, packages: tuple[str, ...], *, sources: bool) -> None:
    environment = _environment(paths, name)
    ensure_environment(system, environment)
    add_packages(system, environment, packages, sources=sources)
    folder = _spec(paths, name)
    for missing in [path for path in (*reversed(folder.parents), folder) if not system.exists(path)]:
        system.make_dir(missing)
    argv = [str(environment.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": f"{name} (shared)", "language": "python", "metadata": {"debugger": False}}
    system.write(folder / "kernel.json", json.dumps(spec, indent=1) + "\n")


def _environment(paths: Paths, name: str) -> Environment:
    return Environment(paths.kernels / "envs" / name, REQUIREMENTS / "kernel.txt", open=True)


def _spec(paths: Paths, name: str) -> Path:
    return paths.kernels / "share" / "jupyter" / "kernels" / name


def _read(system: System, paths: Paths, name: str) -> Kernel:
    environment = _environment(paths, name)
    packages = []
    for folder in system.list_dir(environment.folder / "lib"):
        for entry in system.list_dir(environment.folder / "lib" / folder / "site-packages"):
            if match := re.match(r"(.+)-([^-]+)\.dist-info\Z", entry):
                packages.append(f"{match[1].replace('_', '-').lower()} {match[2]}")
    problem = ""
    if not system.exists(_spec(paths, name) / "kernel.json"):
        problem = "it is not finished: run the same `env create` again"
    elif not system.exists(environment.site_packages):
        problem = f"it was made with another Python than {interpreter().name}: `diycloud jupyter setup` makes it again"
    return Kernel(name, str(environment.folder), tuple(sorted(packages)), problem)
