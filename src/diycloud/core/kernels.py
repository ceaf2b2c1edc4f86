"""Shared environments: kernels that everybody's notebooks offer, made and changed by root.

Each is an environment in `envs/NAME` and a kernel in `share/jupyter/kernels/NAME`, which says how it is started (Jupyter
client, "Kernel specs"). The kernel is written last and removed first, so what is offered is whole. pip fills them, or conda
does (core/conda_environments.py); which one is seen from what is there.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

import msgspec

from diycloud.config import Paths
from diycloud.config_notebooks import Package
from diycloud.core import conda_environments
from diycloud.core.conda import list_packages
from diycloud.core.conda_kernels import list_offered
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
    """A shared environment. packages: `name version` of what is in it; problem: why it cannot be used, if it cannot.

    kind: what fills it; kernels: the names under which notebooks are offered it.
    """

    name: str
    folder: str
    packages: tuple[str, ...]
    problem: str = ""
    kind: Literal["pip", "conda"] = "pip"
    kernels: tuple[str, ...] = ()


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
    there = {*system.list_dir(paths.kernels / "envs"), *conda_environments.list_names(system, paths)}
    return [_read(system, paths, name) for name in sorted(there) if NAME.match(name)]


def create(system: System, paths: Paths, name: str, packages: tuple[str, ...], *, sources: bool = False) -> Kernel:
    """Make a shared environment with packages in it, or go on where a run was cut off.

    Raises InvalidInput, Conflict if there is one already, HostError with pip's last words.
    """
    check_name(name)
    check_packages(packages)
    if conda_environments.is_conda(system, paths, name):
        raise _other_kind(name, "conda")
    if system.exists(_spec(paths, name) / "kernel.json"):
        raise _there_already(name)
    _fill(system, paths, name, packages, sources=sources)
    return _read(system, paths, name)


def create_with_conda(
    system: System, paths: Paths, name: str, specs: tuple[str, ...], *, channels: tuple[str, ...], program: Path
) -> Kernel:
    """Have conda make a shared environment, or make it from the beginning where a run was cut off.

    channels: where its packages come from, none for what conda's own settings say. Raises as `create`, with conda's words.
    """
    check_name(name)
    if conda_environments.is_conda(system, paths, name):
        if not conda_environments.read_note(system, paths, name).can_be_created:
            raise _there_already(name)
    elif system.exists(paths.kernels / "envs" / name):
        raise _other_kind(name, "pip")
    conda_environments.create(system, paths, program, name, specs, channels)
    return _read(system, paths, name)


def install(system: System, paths: Paths, name: str, packages: tuple[str, ...], *, sources: bool = False) -> Kernel:
    """Install packages into a shared environment of pip's, or other versions of them. Raises NotFound and as `create`."""
    check_packages(packages)
    require(system, paths, name, "pip")
    _fill(system, paths, name, packages, sources=sources)
    return _read(system, paths, name)


def install_with_conda(
    system: System, paths: Paths, name: str, specs: tuple[str, ...], *, channels: tuple[str, ...], program: Path
) -> Kernel:
    """Have conda install packages into a shared environment of its own. Raises NotFound and as `create_with_conda`."""
    require(system, paths, name, "conda")
    conda_environments.install(system, paths, program, name, specs, channels)
    return _read(system, paths, name)


def require(system: System, paths: Paths, name: str, kind: str = "") -> Literal["pip", "conda"]:
    """Return what fills a shared environment. Raises InvalidInput, NotFound, Conflict if it is of another kind than asked for."""
    check_name(name)
    found: Literal["pip", "conda"] = "conda" if conda_environments.is_conda(system, paths, name) else "pip"
    if found == "pip" and not system.exists(paths.kernels / "envs" / name):
        raise NotFound(f"There is no environment {name}.", "`diycloud jupyter env list` shows them.")
    if kind and kind != found:
        raise _other_kind(name, found)
    return found


def _there_already(name: str) -> Conflict:
    return Conflict(
        f"There is an environment {name} already.", f"`diycloud jupyter env install {name} PACKAGE` adds to it."
    )


def _other_kind(name: str, kind: str) -> Conflict:
    return Conflict(
        f"There is an environment {name} already, filled by {kind}.",
        f"Choose another name, or take it away first: `diycloud jupyter env remove {name}`.",
    )


def refresh(system: System, paths: Paths) -> list[str]:
    """Make those again whose Python is not the one of this platform any more; returns their names.

    What was in them is installed again, in the same versions. Those of conda's have a Python of their own.
    """
    done = []
    for kernel in [found for found in list_kernels(system, paths) if found.kind == "pip"]:
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
    if not conda_environments.remove(system, paths, name):
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
    offered = list_offered(system, _spec(paths, name).parent, name)
    if conda_environments.is_conda(system, paths, name):
        held = tuple(f"{package} {version}" for package, version in list_packages(system, environment.folder).items())
        problem = conda_environments.read_problem(system, paths, name)
        return Kernel(name, str(environment.folder), held, problem, "conda", offered)
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
    return Kernel(name, str(environment.folder), tuple(sorted(packages)), problem, kernels=offered)
